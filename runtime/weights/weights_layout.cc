#include "runtime/weights/weights_layout.h"

#include "runtime/weights/held_weights.h"
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

  Weight Matrix(const HeldWeight& held, DType dtype) {
    Weight w;
    w.dtype = dtype;
    w.rows = held.rows;
    w.cols = held.cols;
    w.data = Take(Bytes(dtype, w.rows * w.cols));
    if (dtype == DType::kF8E4M3 || dtype == DType::kI8) w.scales = Floats(w.rows);
    if (dtype == DType::kI4) {
      w.group = Int4Group(held.unit, int4_group_);  // no group straddles two pieces of the columns
      w.groups = reinterpret_cast<const uint16_t*>(Take(w.group > 0 ? w.rows * (w.cols / w.group) * 4 : 0));
    }
    if (held.bias) w.bias = Floats(w.rows);
    return w;
  }
  int64_t used() const { return used_; }

 private:
  uint8_t* base_;
  int int4_group_;
  int64_t used_ = 0;
};

ModelWeights LayOut(const WeightShare& share, Layout& layout) {
  const WeightFormats& formats = share.formats;
  ModelWeights weights;
  weights.layers.resize(share.config.layers);
  for (const HeldWeight& held : HeldWeights(share.config, share.shard)) {
    WeightSet& set = held.layer < 0 ? weights.outer : weights.layers[held.layer];
    const auto at = static_cast<size_t>(held.role());
    if (held.is_vector()) {
      set.vectors[at] = layout.Floats(held.rows);
    } else {
      set.matrices[at] = layout.Matrix(held, held.layer < 0 ? formats.vocabulary : formats.matrices);
    }
  }
  if (share.config.tie_embeddings) {
    weights.outer.matrices[static_cast<size_t>(WeightRole::kHead)] = weights.outer[WeightRole::kEmbedding];
  }
  weights.first_id = static_cast<int32_t>(share.shard.vocab.begin);
  return weights;
}

}  // namespace

int64_t WeightBytes(const WeightShare& share) {
  Layout layout(nullptr, share.formats.int4_group);
  LayOut(share, layout);
  return layout.used();
}

absl::StatusOr<ModelWeights> LayOutWeights(const WeightShare& share, Device& device) {
  absl::StatusOr<Buffer> storage = Buffer::Allocate(device, WeightBytes(share), "the model's weights");
  if (!storage.ok()) return storage.status();
  Layout layout(storage->as<uint8_t>(), share.formats.int4_group);
  ModelWeights weights = LayOut(share, layout);
  weights.storage = std::move(*storage);
  return weights;
}

}  // namespace duo
