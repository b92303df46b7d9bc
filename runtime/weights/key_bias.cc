#include "runtime/weights/key_bias.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/base/splitmix64.h"
#include "kernels/hadamard.h"
#include "runtime/weights/families.h"
#include "runtime/weights/held_weights.h"
#include "runtime/weights/stored_matrix.h"

namespace duo {
namespace {

constexpr int kInputs = 16;

// Values of nearly normal distribution and unit variance that follow from the seed: four uniform ones, added.
float Normal(uint64_t seed) {
  const uint64_t bits = SplitMix64(seed);
  float sum = 0;
  for (int i = 0; i < 4; ++i) sum += static_cast<float>(bits >> 16 * i & 0xFFFF) / 65536.0f - 0.5f;
  return sum * std::sqrt(3.0f);
}

// A vector of f32, f16 or bf16; zeros if `name` is empty.
absl::Status ReadVector(const SafetensorsModel& files, const std::string& name, int64_t count,
                        std::vector<float>* out) {
  out->assign(count, 0.0f);
  if (name.empty()) return absl::OkStatus();
  absl::StatusOr<TensorInfo> tensor =
      files.Require(name, {StoredDType::kF32, StoredDType::kF16, StoredDType::kBF16}, {count});
  if (tensor.ok()) ReadFloats(*tensor, 0, count, out->data());
  return tensor.status();
}

}  // namespace

absl::StatusOr<KeyRounding> EstimateKeyRounding(const SafetensorsModel& files, const ModelConfig& config,
                                                ThreadPool& pool) {
  const int d = config.head_dim, group = config.heads / config.kv_heads;
  const int64_t hidden = config.hidden, q_rows = int64_t{config.heads} * d, k_rows = int64_t{config.kv_heads} * d;
  std::vector<float> inputs(hidden * kInputs);  // [hidden][kInputs]
  for (size_t i = 0; i < inputs.size(); ++i) inputs[i] = Normal(i);

  KeyRounding result;
  double noise = 0;
  std::vector<float> gain, q_bias, k_bias, q_norm, k_norm;
  std::vector<double> q_squares(q_rows), k_squares(k_rows);
  std::vector<float> keys(k_rows * kInputs);  // [k_rows][kInputs]
  for (int l = 0; l < config.layers; ++l) {
    auto name = [&](WeightRole role, int tensor) { return TensorName(config, role, tensor, l); };
    const std::string q_name = name(WeightRole::kQkv, 0), k_name = name(WeightRole::kQkv, 1);
    absl::StatusOr<StoredMatrix> q = StoredMatrix::Find(files, config.quantization, q_name, q_rows, hidden);
    if (!q.ok()) return q.status();
    absl::StatusOr<StoredMatrix> k = StoredMatrix::Find(files, config.quantization, k_name, k_rows, hidden);
    if (!k.ok()) return k.status();
    const bool bias = config.attention_bias, norm = config.qk_norm;
    absl::Status read = ReadVector(files, name(WeightRole::kInputNorm, 0), hidden, &gain);
    read.Update(ReadVector(files, bias ? BiasName(q_name) : "", q_rows, &q_bias));
    read.Update(ReadVector(files, bias ? BiasName(k_name) : "", k_rows, &k_bias));
    read.Update(ReadVector(files, name(WeightRole::kQNorm, 0), d, &q_norm));
    read.Update(ReadVector(files, name(WeightRole::kKNorm, 0), d, &k_norm));
    if (!read.ok()) return read;

    pool.ParallelFor(q_rows + k_rows, [&](int64_t r, int) {
      const bool is_key = r >= q_rows;
      if (is_key) r -= q_rows;
      std::vector<float> row(hidden);
      (is_key ? *k : *q).Values(r, 0, hidden, row.data());
      double squares = 0;
      float sums[kInputs] = {};
      for (int64_t c = 0; c < hidden; ++c) {
        const float w = row[c] * gain[c];
        squares += double{w} * w;
        for (int i = 0; is_key && i < kInputs; ++i) sums[i] += w * inputs[c * kInputs + i];
      }
      (is_key ? k_squares : q_squares)[r] = squares;
      for (int i = 0; is_key && i < kInputs; ++i) keys[r * kInputs + i] = sums[i] + k_bias[r];
    });

    for (int head = 0; head < config.kv_heads; ++head) {
      const int64_t first = int64_t{head} * d;
      double top = 0, squares = 0, steps = 0, query = 0;
      for (int c = 0; c < d; ++c) {
        top = std::max(top, std::fabs(double{k_bias[first + c]}));
        squares += k_squares[first + c] / d;
      }
      for (int i = 0; i < kInputs; ++i) {
        double mean_square = 0;
        for (int c = 0; c < d; ++c) mean_square += std::pow(double{keys[(first + c) * kInputs + i]}, 2) / d;
        const double scale = norm && mean_square > 0 ? 1 / std::sqrt(mean_square) : 1;
        std::vector<float> key(d);  // as it is coded, but for RoPE, which moves no channel far
        for (int c = 0; c < d; ++c) key[c] = keys[(first + c) * kInputs + i] * (norm ? scale * k_norm[c] : 1.0);
        HadamardRotate(key.data(), d);
        const auto [low, high] = std::minmax_element(key.begin(), key.end());
        steps += std::pow(double{*high - *low} / 15, 2) / kInputs;
      }
      for (int64_t r = first * group; r < (first + d) * group; ++r) {
        query += (norm ? std::pow(double{q_norm[r % d]}, 2) : q_squares[r] + std::pow(double{q_bias[r]}, 2)) / group;
      }
      noise += query * steps / (12.0 * d) / (config.layers * config.kv_heads);
      const double ratio = squares > 0 && !norm ? top / std::sqrt(squares) : 0;
      if (ratio > result.bias_ratio) {
        result.layer = l;
        result.kv_head = head;
        result.bias_ratio = ratio;
      }
    }
  }
  result.logit_noise = std::sqrt(noise);
  return result;
}

}  // namespace duo
