#include "runtime/weights/weights_layout.h"

#include "kernels/base/check.h"
#include "kernels/scale_blocks.h"
#include "runtime/weights/held_weights.h"
#include "runtime/weights/quantize.h"

namespace duo {
namespace {

// Rows of the weight that share a scale, of `most` in the stored tensors: a power of two at whose multiples every piece
// of a tensor begins, there and in memory.
int ScaleRows(const HeldWeight& held, int most) {
  int64_t first = 0;  // in memory
  int64_t unit = most;
  for (const TensorSlice& slice : held.tensors) {
    for (const Range& piece : slice.row_pieces) {
      while (first % unit != 0 || piece.begin % unit != 0) unit /= 2;
      first += piece.size();
    }
  }
  return static_cast<int>(unit);
}

// Walks the layout of all weights: once to count bytes, once to hand out pointers.
class Layout {
 public:
  Layout(uint8_t* base, const WeightFormats& formats) : base_(base), formats_(formats) {}

  uint8_t* Take(int64_t bytes) {
    uint8_t* piece = base_ == nullptr ? nullptr : base_ + used_;
    used_ += Arena::Rounded(bytes);
    return piece;
  }
  const float* Floats(int64_t count) { return reinterpret_cast<const float*>(Take(4 * count)); }

  Weight Matrix(const HeldWeight& held) {
    const CodeFormat format = FormatOf(held, formats_);
    Weight w;
    w.dtype = format.type;
    w.rows = held.rows;
    w.cols = held.cols;
    w.data = Take(Bytes(w.dtype, w.rows * w.cols));
    w.group = format.group;
    w.block = format.scale_blocks() ? ScaleRows(held, format.block) : format.block;
    w.table = format.table;
    if (HasScaleBlocks(w)) {
      w.scales = Floats(ScaleCount(w));
      if (held.bias) w.bias = Floats(w.rows);
      return w;
    }
    if (HasRowScales(w.dtype) && w.group == 0) w.scales = Floats(w.rows);
    if (w.table == CodeTable::kE2M1) {
      DUO_CHECK_GT(w.group, 0);
      w.exponents = Take(w.rows * (w.cols / w.group));
    } else if (w.group > 0) {
      w.groups = reinterpret_cast<const uint16_t*>(Take(w.rows * (w.cols / w.pair_cols()) * 4));
    }
    if (w.block > 0) w.subs = reinterpret_cast<const int8_t*>(Take(w.rows * (w.cols / w.group) * 2));
    if (held.bias) w.bias = Floats(w.rows);
    return w;
  }
  int64_t used() const { return used_; }

 private:
  uint8_t* base_;
  const WeightFormats& formats_;
  int64_t used_ = 0;
};

ModelWeights LayOut(const WeightShare& share, Layout& layout) {
  ModelWeights weights;
  weights.layers.resize(share.config.layers);
  for (const HeldWeight& held : WeightsOf(share)) {
    WeightSet& set = held.layer < 0 ? weights.outer : weights.layers[held.layer];
    const auto at = static_cast<size_t>(held.role());
    if (held.is_vector()) {
      set.vectors[at] = layout.Floats(held.rows);
    } else {
      set.matrices[at] = layout.Matrix(held);
    }
  }
  if (share.config.tie_embeddings) {
    weights.outer.matrices[static_cast<size_t>(WeightRole::kHead)] = weights.outer[WeightRole::kEmbedding];
  }
  weights.first_id = static_cast<int32_t>(share.shard.vocab.begin);
  weights.experts = share.shard.experts;
  return weights;
}

}  // namespace

std::optional<CodeFormat> FitTo(const CodeFormat& format, const HeldWeight& held) {
  if (format.scale_blocks() && held.record->cols != Dim::kQueryHeads) return format;
  return FitTo(format, held.unit);
}

CodeFormat FormatOf(const HeldWeight& held, const WeightFormats& formats) {
  const auto kept = formats.kept.find({held.layer, held.role()});
  if (kept != formats.kept.end()) return kept->second;
  const DType type = held.layer < 0 ? formats.vocabulary : formats.matrices;
  if (held.record->never_coded && IsQuantized(type)) return {DType::kBF16, 0, 0};
  if (type == DType::kI4) return {type, Int4Group(held.unit, formats.int4_group), 0};
  if (type == DType::kF8E4M3 && formats.int8_group > 0 && formats.matrices == DType::kF8E4M3)
    return FitTo(CodeFormat{type, formats.int8_group, formats.int8_group}, held).value_or(CodeFormat{type, 0, 0});
  if (type == DType::kI8 && formats.int8_group > 0 && formats.matrices != DType::kF8E4M3)
    return FitTo({type, formats.int8_group, 0}, held.unit).value_or(CodeFormat{type, 0, 0});
  return {type, 0, 0};
}

std::vector<HeldWeight> WeightsOf(const WeightShare& share) {
  std::vector<HeldWeight> held = HeldWeights(share.config, share.shard);
  if (share.parts != WeightParts::kAll) {
    const bool layers = share.parts == WeightParts::kLayers;
    std::erase_if(held, [&](const HeldWeight& h) { return layers ? h.layer < 0 : h.role() != WeightRole::kEmbedding; });
    return held;
  }
  if (!share.formats.without_embedding || share.config.tie_embeddings) return held;
  std::erase_if(held, [](const HeldWeight& h) { return h.role() == WeightRole::kEmbedding; });
  return held;
}

ModelWeights DescribeWeights(const WeightShare& share) {
  Layout layout(nullptr, share.formats);
  return LayOut(share, layout);
}

int64_t WeightBytes(const WeightShare& share) {
  Layout layout(nullptr, share.formats);
  LayOut(share, layout);
  return layout.used();
}

absl::StatusOr<ModelWeights> LayOutWeights(const WeightShare& share, Device& device) {
  absl::StatusOr<Buffer> storage = Buffer::Allocate(device, WeightBytes(share), "the model's weights");
  if (!storage.ok()) return storage.status();
  Layout layout(storage->as<uint8_t>(), share.formats);
  ModelWeights weights = LayOut(share, layout);
  weights.storage = std::move(*storage);
  return weights;
}

}  // namespace duo
