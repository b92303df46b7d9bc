#include "runtime/weights/weights_layout.h"

#include "runtime/weights/quantize.h"

namespace duo {
namespace {

// Walks the layout of all weights: once to count bytes, once to hand out pointers.
class Layout {
 public:
  Layout(uint8_t* base, int int4_group) : base_(base), int4_group_(int4_group) {}

  uint8_t* Take(int64_t bytes) {
    uint8_t* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += Arena::Rounded(bytes);
    return piece;
  }
  const float* Floats(int64_t count) { return reinterpret_cast<const float*>(Take(4 * count)); }

  // unit: pieces of the columns that groups must not straddle are multiples of it.
  Weight Matrix(DType dtype, int64_t rows, int64_t cols, int64_t unit, bool bias) {
    Weight w;
    w.dtype = dtype;
    w.rows = rows;
    w.cols = cols;
    w.data = Take(Bytes(dtype, rows * cols));
    if (dtype == DType::kF8E4M3 || dtype == DType::kI8) w.scales = Floats(rows);
    if (dtype == DType::kI4) {
      w.group = Int4Group(unit, int4_group_);
      w.groups = reinterpret_cast<const uint16_t*>(Take(w.group > 0 ? rows * (cols / w.group) * 4 : 0));
    }
    if (bias) w.bias = Floats(rows);
    return w;
  }
  int64_t used() const { return used_; }

 private:
  uint8_t* base_;
  int int4_group_;
  int64_t used_ = 0;
};

ModelWeights LayOut(const ModelConfig& config, const RankShard& shard, const WeightFormats& formats, Layout& layout) {
  ModelWeights weights;
  const int64_t d = config.head_dim, group = config.heads / config.kv_heads;
  const int64_t ffn = shard.ffn.size();
  const bool leader = shard.rank == 0;  // adds the biases of what is summed over ranks
  for (int l = 0; l < config.layers; ++l) {
    LayerWeights w;
    const int64_t heads = shard.layers[l].size();
    w.qkv =
        layout.Matrix(formats.matrices, heads * (group + 2) * d, config.hidden, config.hidden, config.attention_bias);
    w.o = layout.Matrix(formats.matrices, config.hidden, heads * group * d, d, config.o_bias && leader);
    w.gate_up = layout.Matrix(formats.matrices, 2 * ffn, config.hidden, config.hidden, config.mlp_bias);
    w.down = layout.Matrix(formats.matrices, config.hidden, ffn, config.intermediate, config.mlp_bias && leader);
    w.input_norm = layout.Floats(config.hidden);
    w.post_norm = layout.Floats(config.hidden);
    if (config.qk_norm) {
      w.q_norm = layout.Floats(d);
      w.k_norm = layout.Floats(d);
    }
    weights.layers.push_back(w);
  }
  weights.final_norm = layout.Floats(config.hidden);
  weights.embedding = layout.Matrix(formats.vocabulary, shard.vocab.size(), config.hidden, config.hidden, false);
  weights.head = config.tie_embeddings
                     ? weights.embedding
                     : layout.Matrix(formats.vocabulary, shard.vocab.size(), config.hidden, config.hidden, false);
  weights.first_id = static_cast<int32_t>(shard.vocab.begin);
  return weights;
}

}  // namespace

int64_t WeightBytes(const ModelConfig& config, const RankShard& shard, const WeightFormats& formats) {
  Layout layout(nullptr, formats.int4_group);
  LayOut(config, shard, formats, layout);
  return layout.used();
}

absl::StatusOr<ModelWeights> LayOutWeights(const ModelConfig& config, const RankShard& shard,
                                           const WeightFormats& formats, Device& device) {
  absl::StatusOr<Buffer> storage = Buffer::Allocate(device, WeightBytes(config, shard, formats), "the model's weights");
  if (!storage.ok()) return storage.status();
  Layout layout(storage->as<uint8_t>(), formats.int4_group);
  ModelWeights weights = LayOut(config, shard, formats, layout);
  weights.storage = std::move(*storage);
  return weights;
}

}  // namespace duo
