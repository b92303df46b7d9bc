#include "runtime/key_bias.h"

#include <cmath>
#include <vector>

#include "runtime/families.h"
#include "runtime/stored_matrix.h"

namespace duo {

absl::StatusOr<KeyBias> LargestKeyBias(const SafetensorsModel& files, const ModelConfig& config) {
  KeyBias largest;
  if (!config.attention_bias || config.qk_norm) return largest;
  const TensorNames& names = Spec(config.family).names;
  const int64_t rows = int64_t{config.kv_heads} * config.head_dim, hidden = config.hidden;
  std::vector<float> row(hidden), gain(hidden), bias(rows);
  const auto vector = [&](const std::string& name, std::vector<float>* out) -> absl::Status {
    // A vector is a matrix of one row, stored plain.
    absl::StatusOr<TensorInfo> tensor = files.Require(name, {StoredDType::kF32, StoredDType::kF16, StoredDType::kBF16},
                                                      {static_cast<int64_t>(out->size())});
    if (tensor.ok()) ReadFloats(*tensor, 0, static_cast<int64_t>(out->size()), out->data());
    return tensor.status();
  };
  for (int l = 0; l < config.layers; ++l) {
    const std::string name = LayerName(names.k, l);
    absl::StatusOr<StoredMatrix> keys = StoredMatrix::Find(files, config.quantization, name, rows, hidden);
    if (!keys.ok()) return keys.status();
    if (absl::Status s = vector(LayerName(names.input_norm, l), &gain); !s.ok()) return s;
    if (absl::Status s = vector(BiasName(name), &bias); !s.ok()) return s;
    for (int head = 0; head < config.kv_heads; ++head) {
      double variance = 0, top = 0;
      for (int64_t r = int64_t{head} * config.head_dim; r < int64_t{head + 1} * config.head_dim; ++r) {
        keys->Values(r, 0, hidden, row.data());
        for (int64_t c = 0; c < hidden; ++c) variance += std::pow(double{row[c]} * gain[c], 2) / config.head_dim;
        top = std::max(top, std::fabs(double{bias[r]}));
      }
      const double ratio = variance > 0 ? top / std::sqrt(variance) : 0;
      if (ratio > largest.ratio) largest = {l, head, ratio};
    }
  }
  return largest;
}

}  // namespace duo
