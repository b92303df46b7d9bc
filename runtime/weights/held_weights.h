// HeldWeights: a family's records (weight_records.h) with a model's numbers in place and cut for one rank: what the
// rank holds of each weight, and which slices of which stored tensors make it. The one walk over a model's weights.
// Values and pure functions; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "parallel/shard.h"
#include "runtime/weights/config.h"
#include "runtime/weights/stored_matrix.h"
#include "runtime/weights/weight_records.h"

namespace duo {

// What a rank holds of one stored tensor [rows, cols]: pieces of its rows and columns, in the order they have in
// memory.
struct TensorSlice {
  std::string name;
  int64_t rows = 0, cols = 0;
  std::vector<Range> row_pieces, col_pieces;
  std::vector<bool> present;  // [col_pieces]; absent pieces are zeros in memory
  StackedRows stacked;        // of experts that share a tensor
};

// The whole tensor that a slice is cut from, or the expert's part of it.
absl::StatusOr<StoredMatrix> FindStored(const SafetensorsModel& files, const QuantizationConfig& quantization,
                                        const TensorSlice& slice);

struct HeldWeight {
  const WeightRecord* record = nullptr;
  int layer = -1;  // -1: the model's
  std::vector<TensorSlice> tensors;
  int64_t rows = 0, cols = 0;  // in memory, on this rank
  int64_t inputs = 0;          // columns on all ranks together
  int64_t unit = 1;            // the columns' pieces are multiples of it
  bool bias = false;           // this rank has its bias
  bool whole_experts = false;  // of experts that are dealt out whole
  WeightRole role() const { return record->role; }
  bool is_vector() const { return record->cols == Dim::kOne; }
  // Ranks hold columns of the same rows, and add up their outputs.
  bool cuts_columns() const {
    const Dim cols = record->cols;
    return cols == Dim::kQueryHeads || cols == Dim::kIntermediate || cols == Dim::kSharedIntermediate ||
           (cols == Dim::kExpertIntermediate && !whole_experts);
  }
};

// Layer by layer in the records' order, then the model's.
std::vector<HeldWeight> HeldWeights(const ModelConfig& config, const RankShard& shard);

// Numbers that the checkpoint holds, biases included.
int64_t CountParameters(const ModelConfig& config);
// Those that work on one token: all of them but the experts that it does not choose.
int64_t CountActiveParameters(const ModelConfig& config);
// A layer's matrix that a token is multiplied with; of experts, as many together as it chooses.
struct TokenMatrix {
  int layer = 0;
  WeightRole role = WeightRole::kCount;
  int64_t elements = 0;  // on all ranks, without the bias
};
std::vector<TokenMatrix> TokenMatrices(const ModelConfig& config);
// The elements of all of them.
int64_t TokenMatrixElements(const ModelConfig& config);

// A weight's stored tensor, "model.layers.3.self_attn.k_proj.weight" for (kQkv, 1, 3); empty where the model has none.
std::string TensorName(const ModelConfig& config, WeightRole role, int tensor, int layer);

}  // namespace duo
