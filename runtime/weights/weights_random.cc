#include <cmath>

#include "kernels/base/splitmix64.h"
#include "kernels/random_fill.h"
#include "kernels/scale_blocks.h"
#include "runtime/weights/weights_layout.h"

namespace duo {
namespace {

// A head's weights follow from the head, not from the rank: the holders of a split head must agree. All ranks have the
// same router, and rows of the same vocabulary. The other matrices are cut without overlap, so a rank's own numbers do.
uint64_t SeedOf(uint64_t what, int layer, uint64_t unit) {
  return SplitMix64(SplitMix64(what << 32 | static_cast<uint64_t>(layer < 0 ? 0 : layer)) + unit);
}

// Uniform in +- sqrt(3 / inputs) has variance 1 / inputs: outputs are about as large as inputs.
float Amplitude(int64_t inputs) { return std::sqrt(3.0f / static_cast<float>(inputs)); }

// Rows [first, first + count) of a matrix as one of its own.
Weight RowsOf(const Weight& w, int64_t first, int64_t count) {
  Weight part = w;
  part.rows = count;
  part.data = static_cast<const uint8_t*>(w.data) + Bytes(w.dtype, first * w.cols);
  if (w.scales != nullptr) part.scales = HasScaleBlocks(w) ? ScalesOfRow(w, first) : w.scales + first;
  if (w.exponents != nullptr) part.exponents = w.exponents + first * (w.cols / w.group);
  if (w.groups != nullptr) part.groups = w.groups + first * (w.cols / w.pair_cols()) * 2;
  if (w.subs != nullptr) part.subs = w.subs + first * (w.cols / w.group) * 2;
  if (w.bias != nullptr) part.bias = w.bias + first;
  return part;
}

// A matrix whose rows are the heads': tensor by tensor, head by head.
void FillHeadRows(const HeldWeight& held, const std::vector<LocalHead>& heads, const Weight& w, Device& device) {
  int64_t first = 0;
  uint64_t what = held.record->random_seed;
  for (const TensorSlice& slice : held.tensors) {
    for (size_t i = 0; i < heads.size(); ++i) {
      const int64_t count = slice.row_pieces[i].size();
      FillWeight(device, RowsOf(w, first, count), SeedOf(what, held.layer, heads[i].kv_head), Amplitude(held.inputs));
      first += count;
    }
    ++what;
  }
}

// A matrix whose columns are the heads': scales and groups as of any matrix, then codes column by column.
void FillHeadColumns(const HeldWeight& held, const RankShard& shard, const Weight& w, Device& device) {
  FillWeight(device, w, SeedOf(held.record->random_seed, held.layer, shard.rank), Amplitude(held.inputs));
  const std::vector<LocalHead>& heads = shard.layers[held.layer];
  int64_t first = 0;
  for (size_t i = 0; i < heads.size(); ++i) {
    const int64_t count = held.tensors[0].col_pieces[i].size();
    FillRun columns;
    columns.data = static_cast<uint8_t*>(const_cast<void*>(w.data)) + Bytes(w.dtype, first);
    columns.stride = static_cast<int64_t>(Bytes(w.dtype, w.cols));
    columns.runs = w.rows;
    columns.amplitude = Amplitude(held.inputs);
    columns.kind = FillKindOf(w.dtype);
    columns.count = columns.kind == FillKind::kCode ? static_cast<int64_t>(Bytes(w.dtype, count)) : count;
    FillElements(device, columns, SeedOf(held.record->random_seed, held.layer, heads[i].kv_head));
    first += count;
  }
}

}  // namespace

absl::StatusOr<ModelWeights> RandomWeights(const WeightShare& share, Device& device) {
  absl::StatusOr<ModelWeights> weights = LayOutWeights(share, device);
  if (!weights.ok()) return weights;
  const RankShard& shard = share.shard;
  for (const HeldWeight& held : WeightsOf(share)) {
    const WeightSet& set = held.layer < 0 ? weights->outer : weights->layers[held.layer];
    if (held.is_vector()) {
      FillFloats(device, const_cast<float*>(set.vector(held.role())), held.rows, 1.0f);
      continue;
    }
    const Weight& w = set[held.role()];
    if (held.record->tensors[0].rows == Dim::kQueryHeads) {
      FillHeadRows(held, shard.layers[held.layer], w, device);
    } else if (held.record->cols == Dim::kQueryHeads) {
      FillHeadColumns(held, shard, w, device);
    } else {
      // An embedding's rows are inputs themselves, not added up.
      const float amplitude = held.role() == WeightRole::kEmbedding ? 1.0f : Amplitude(held.inputs);
      // Of the vocabulary a rank has the same rows as whoever has all of it: element i follows from seed + i.
      const bool vocabulary = held.record->tensors[0].rows == Dim::kVocab;
      const uint64_t unit = vocabulary || held.role() == WeightRole::kRouter ? 0 : shard.rank;
      const bool bytes = FillKindOf(w.dtype) == FillKind::kCode || FillKindOf(w.dtype) == FillKind::kE4M3;
      const int64_t row = bytes ? static_cast<int64_t>(Bytes(w.dtype, w.cols)) : w.cols;
      const uint64_t skipped = vocabulary ? shard.vocab.begin * row : 0;
      FillWeight(device, w, SeedOf(held.record->random_seed, held.layer, unit) + skipped, amplitude);
    }
  }
  return weights;
}

}  // namespace duo
