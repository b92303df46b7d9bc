#include "runtime/model/key_shift.h"

#include <algorithm>
#include <cmath>
#include <complex>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/check.h"
#include "runtime/weights/fingerprint.h"

namespace duo {
namespace {

// The mean of e^{i p f} over p = 0 .. n - 1.
std::complex<double> MeanTurn(double f, int64_t n) {
  const double half = f / 2, count = static_cast<double>(n);
  if (std::fabs(std::sin(half)) < 1e-12) return 1;  // whole turns, or none
  return std::polar(std::sin(count * half) / (count * std::sin(half)), (count - 1) * half);
}

// The mean of that over texts of all lengths from an eighth of `positions` on, whose logarithms are spread evenly.
std::complex<double> MeanTurnOfTexts(double f, int64_t positions) {
  constexpr int kLengths = 25;
  constexpr double kOctaves = 3;
  std::complex<double> sum = 0;
  for (int i = 0; i < kLengths; ++i) {
    const double share = std::exp2(kOctaves * (static_cast<double>(i) / (kLengths - 1) - 1));
    sum += MeanTurn(f, std::max<int64_t>(1, std::llround(share * static_cast<double>(positions))));
  }
  return sum / double{kLengths};
}

}  // namespace

std::vector<float> KeyShift(const KeyMeans& means, const RopeFrequencies& rope, int64_t positions) {
  const size_t half = rope.inv_freq.size(), d = 2 * half;
  DUO_CHECK_EQ(d, static_cast<size_t>(means.head_dim));
  std::vector<std::complex<double>> turns;
  for (const double f : rope.inv_freq) turns.push_back(rope.attention_factor * MeanTurnOfTexts(f, positions));
  std::vector<float> shift(means.values.size());
  for (size_t head = 0; head < shift.size(); head += d) {
    for (size_t i = 0; i < half; ++i) {
      const std::complex<double> mean =
          std::complex<double>(means.values[head + i], means.values[head + half + i]) * turns[i];
      shift[head + i] = static_cast<float>(mean.real());
      shift[head + half + i] = static_cast<float>(mean.imag());
    }
  }
  return shift;
}

absl::Status CheckKeyShift(const ModelConfig& config, const KeyMeans& means, const std::string& dir) {
  if (config.attention_sinks) {
    return absl::InvalidArgumentError(
        "--key-means: models with learned attention sinks compare scores with numbers of their own, so that their keys "
        "must stay as they are; leave it off");
  }
  if (config.dual_chunk.chunk_size > 0) {
    return absl::InvalidArgumentError(
        "--key-means: models with dual chunk attention meet one key with queries of several rotations, so that their "
        "keys must stay as they are; leave it off");
  }
  if (means.layers != config.layers || means.kv_heads != config.kv_heads || means.head_dim != config.head_dim) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s/%s: expected %d layers of %d KV heads of %d channels, as the model has, found %d of %d of %d", dir,
        kKeyMeansFile, config.layers, config.kv_heads, config.head_dim, means.layers, means.kv_heads, means.head_dim));
  }
  return absl::OkStatus();
}

std::string KeyShiftFingerprint(const KeyMeans& means, const RopeFrequencies& rope, int64_t positions) {
  std::string text = absl::StrCat(FormatKeyMeans(means), positions, "\n");
  for (const double f : rope.inv_freq) absl::StrAppendFormat(&text, "%.6g\t", f * rope.attention_factor);
  return TextFingerprint(text);
}

}  // namespace duo
