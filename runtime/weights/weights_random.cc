#include <cmath>

#include "kernels/base/splitmix64.h"
#include "kernels/random_fill.h"
#include "runtime/weights/weights_layout.h"

namespace duo {

absl::StatusOr<ModelWeights> RandomWeights(const ModelConfig& config, const RankShard& shard,
                                           const WeightFormats& formats, Device& device) {
  absl::StatusOr<ModelWeights> weights = LayOutWeights(config, shard, formats, device);
  if (!weights.ok()) return weights;
  // A head's weights follow from the head, not from the rank: the holders of a split head must agree. The other
  // matrices are cut without overlap, so a rank's own numbers do.
  auto seed_of = [](uint64_t what, uint64_t layer, uint64_t unit) {
    return SplitMix64(SplitMix64(what << 32 | layer) + unit);
  };
  auto amplitude = [](int64_t inputs) {
    // Uniform in +- sqrt(3 / inputs) has variance 1 / inputs: outputs are about as large as inputs.
    return std::sqrt(3.0f / static_cast<float>(inputs));
  };
  auto fill = [&](const Weight& w, int64_t inputs, uint64_t what, uint64_t layer) {
    FillWeight(device, w, seed_of(what, layer, shard.rank), amplitude(inputs));
  };
  // Rows [first, first + count) of a matrix as one of its own.
  auto rows_of = [](const Weight& w, int64_t first, int64_t count) {
    Weight part = w;
    part.rows = count;
    part.data = static_cast<const uint8_t*>(w.data) + Bytes(w.dtype, first * w.cols);
    if (w.scales != nullptr) part.scales = w.scales + first;
    if (w.groups != nullptr) part.groups = w.groups + first * (w.cols / w.group) * 2;
    if (w.bias != nullptr) part.bias = w.bias + first;
    return part;
  };
  auto fill_heads = [&](const LayerWeights& w, uint64_t layer) {
    const std::vector<LocalHead>& heads = shard.layers[layer];
    const auto count = static_cast<int64_t>(heads.size());
    const int64_t d = config.head_dim, group = config.heads / config.kv_heads;
    fill(w.o, int64_t{config.heads} * d, 1, layer);  // scales and groups; the codes again, head by head, below
    for (int64_t i = 0; i < count; ++i) {
      const uint64_t head = heads[i].kv_head;
      FillWeight(device, rows_of(w.qkv, i * group * d, group * d), seed_of(2, layer, head), amplitude(config.hidden));
      FillWeight(device, rows_of(w.qkv, (count * group + i) * d, d), seed_of(3, layer, head), amplitude(config.hidden));
      FillWeight(device, rows_of(w.qkv, (count * (group + 1) + i) * d, d), seed_of(4, layer, head),
                 amplitude(config.hidden));
      FillRun columns;
      columns.data = static_cast<uint8_t*>(const_cast<void*>(w.o.data)) + Bytes(w.o.dtype, i * group * d);
      columns.stride = static_cast<int64_t>(Bytes(w.o.dtype, w.o.cols));
      columns.runs = w.o.rows;
      columns.amplitude = amplitude(int64_t{config.heads} * d);
      columns.kind = FillKindOf(w.o.dtype);
      columns.count = columns.kind == FillKind::kCode ? static_cast<int64_t>(Bytes(w.o.dtype, group * d)) : group * d;
      FillElements(device, columns, seed_of(5, layer, head));
    }
  };
  auto ones = [&](const float* norm, int64_t count) {
    if (norm != nullptr) FillFloats(device, const_cast<float*>(norm), count, 1.0f);
  };
  for (int l = 0; l < config.layers; ++l) {
    const LayerWeights& w = weights->layers[l];
    fill_heads(w, l);
    fill(w.gate_up, config.hidden, 6, l);
    fill(w.down, config.intermediate, 7, l);
    ones(w.input_norm, config.hidden);
    ones(w.post_norm, config.hidden);
    ones(w.q_norm, config.head_dim);
    ones(w.k_norm, config.head_dim);
  }
  ones(weights->final_norm, config.hidden);
  FillWeight(device, weights->embedding, seed_of(8, 0, shard.rank), 1.0f);
  if (!config.tie_embeddings) fill(weights->head, config.hidden, 9, 0);
  return weights;
}

}  // namespace duo
