#include "runtime/model/rope.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/check.h"

namespace duo {
namespace {

constexpr double kPi = 3.141592653589793238462643383279502884;

// theta^(-2i/d).
std::vector<double> BaseFrequencies(double theta, int head_dim) {
  std::vector<double> inv_freq(static_cast<size_t>(head_dim) / 2);
  for (size_t i = 0; i < inv_freq.size(); ++i)
    inv_freq[i] = 1.0 / std::pow(theta, 2.0 * static_cast<double>(i) / head_dim);
  return inv_freq;
}

void ScaleLlama3(const RopeConfig& rope, std::vector<double>& inv_freq) {
  const double context = static_cast<double>(rope.original_max_position_embeddings);
  for (double& f : inv_freq) {
    const double wavelength = 2 * kPi / f;
    if (wavelength < context / rope.high_freq_factor) continue;
    if (wavelength > context / rope.low_freq_factor) {
      f /= rope.factor;
    } else {
      const double s = (context / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
      f = (1 - s) * f / rope.factor + s * f;
    }
  }
}

void ScaleYarn(const RopeConfig& rope, int head_dim, std::vector<double>& inv_freq) {
  // The (fractional) pair index whose frequency turns `rotations` times in the original context.
  const auto dimension = [&](double rotations) {
    const double context = static_cast<double>(rope.original_max_position_embeddings);
    return head_dim * std::log(context / (rotations * 2 * kPi)) / (2 * std::log(rope.theta));
  };
  double low = dimension(rope.beta_fast), high = dimension(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, head_dim - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const double interpolate = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inv_freq[i] = inv_freq[i] / rope.factor * interpolate + inv_freq[i] * (1 - interpolate);
  }
}

double YarnAttentionFactor(const RopeConfig& rope) {
  if (rope.attention_factor != 0) return rope.attention_factor;
  const auto magnitude = [&](double mscale) {
    return rope.factor <= 1 ? 1.0 : 0.1 * mscale * std::log(rope.factor) + 1.0;
  };
  if (rope.mscale != 0 && rope.mscale_all_dim != 0) return magnitude(rope.mscale) / magnitude(rope.mscale_all_dim);
  return magnitude(1);
}

}  // namespace

RopeFrequencies ComputeRopeFrequencies(const ModelConfig& config, int64_t max_tokens) {
  const RopeConfig& rope = config.rope;
  DUO_CHECK(config.head_dim >= 2 && config.head_dim % 2 == 0);
  RopeFrequencies out;
  const auto base = [&](double theta) {
    std::vector<double> inv_freq = BaseFrequencies(theta, config.head_dim);
    for (size_t i = 0; i < rope.divisors.size(); ++i) inv_freq[i] /= rope.divisors[i];
    return inv_freq;
  };
  switch (rope.scaling) {
    case RopeScaling::kNone:
      out.inv_freq = base(rope.theta);
      break;
    case RopeScaling::kLinear:
      out.inv_freq = base(rope.theta);
      for (double& f : out.inv_freq) f /= rope.factor;
      break;
    case RopeScaling::kDynamic: {
      const double m = static_cast<double>(config.max_position_embeddings);
      const double n = std::max(static_cast<double>(max_tokens), m);
      const double d = config.head_dim;
      const double grown = rope.theta * std::pow(rope.factor * n / m - (rope.factor - 1), d / (d - 2));
      out.inv_freq = base(grown);
      break;
    }
    case RopeScaling::kLlama3:
      out.inv_freq = base(rope.theta);
      ScaleLlama3(rope, out.inv_freq);
      break;
    case RopeScaling::kYarn:
      out.inv_freq = base(rope.theta);
      ScaleYarn(rope, config.head_dim, out.inv_freq);
      out.attention_factor = YarnAttentionFactor(rope);
      break;
  }
  return out;
}

}  // namespace duo
