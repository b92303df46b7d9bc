#include "runtime/weights/held_weights.h"

#include "kernels/base/check.h"
#include "runtime/weights/families.h"

namespace duo {
namespace {

// layer: -1 of the model's own weights.
bool Exists(const WeightRecord& record, const ModelConfig& config, int layer) {
  if (record.layers != LayersWith::kAll && config.experts.in(layer) != (record.layers == LayersWith::kExperts)) {
    return false;
  }
  return (record.only_if == nullptr || config.*record.only_if) &&
         (record.unless == nullptr || !(config.*record.unless));
}

bool HasBias(const WeightRecord& record, const ModelConfig& config) {
  return record.bias != nullptr && config.*record.bias;
}

// Every weight of the model: visit(record, layer).
template <typename Visit>
void EachWeight(const ModelConfig& config, Visit visit) {
  const FamilySpec& family = Spec(config.family);
  for (int layer = 0; layer < config.layers; ++layer) {
    for (const WeightRecord& record : family.layer) {
      if (Exists(record, config, layer)) visit(record, layer);
    }
  }
  for (const WeightRecord& record : family.outer) {
    if (Exists(record, config, -1)) visit(record, -1);
  }
}

int64_t SizeOf(Dim dim, const ModelConfig& config) {
  switch (dim) {
    case Dim::kOne:
      return 1;
    case Dim::kHidden:
      return config.hidden;
    case Dim::kHeadDim:
      return config.head_dim;
    case Dim::kQueryHeads:
      return int64_t{config.heads} * config.head_dim;
    case Dim::kKvHeads:
      return int64_t{config.kv_heads} * config.head_dim;
    case Dim::kHeads:
      return config.heads;
    case Dim::kIntermediate:
      return config.intermediate;
    case Dim::kVocab:
      return config.vocab;
    case Dim::kExperts:
      return config.experts.count;
    case Dim::kExpertIntermediate:
      return config.experts.intermediate;
    case Dim::kSharedIntermediate:
      return config.experts.shared_intermediate;
  }
  return 0;
}

// The pieces of a dimension that a rank holds.
std::vector<Range> PiecesOf(Dim dim, const ModelConfig& config, const RankShard& shard, int layer) {
  if (dim == Dim::kIntermediate) return {shard.ffn};
  if (dim == Dim::kVocab) return {shard.vocab};
  if (dim == Dim::kExpertIntermediate) return {shard.expert};
  if (dim == Dim::kSharedIntermediate) return {shard.shared_expert};
  const int64_t size = SizeOf(dim, config);
  if (dim != Dim::kQueryHeads && dim != Dim::kKvHeads && dim != Dim::kHeads) return {{0, size}};
  const int64_t per_head = size / config.kv_heads;
  std::vector<Range> pieces;
  for (const LocalHead& head : shard.layers[layer]) {
    pieces.push_back({head.kv_head * per_head, (head.kv_head + 1) * per_head});
  }
  return pieces;
}

int64_t TotalOf(const std::vector<Range>& pieces) {
  int64_t total = 0;
  for (const Range& piece : pieces) total += piece.size();
  return total;
}

// What pieces of the columns are multiples of, on any number of ranks.
int64_t UnitOf(Dim cols, const ModelConfig& config) {
  return cols == Dim::kQueryHeads ? config.head_dim : SizeOf(cols, config);
}

std::string NameOf(const StoredTensor& tensor, int layer, int expert) {
  return layer < 0 ? tensor.name : LayerName(tensor.name, layer, expert);
}

// For which experts a record's tensors stand one below the other on a rank; of other records, for one.
Range ExpertsOf(const WeightRecord& record, const RankShard& shard) {
  return record.each_expert ? shard.experts : Range{0, 1};
}

HeldWeight Hold(const WeightRecord& record, int layer, const ModelConfig& config, const RankShard& shard) {
  HeldWeight held;
  held.record = &record;
  held.layer = layer;
  held.inputs = SizeOf(record.cols, config);
  held.unit = UnitOf(record.cols, config);
  TensorSlice slice;
  slice.cols = held.inputs;
  slice.col_pieces = PiecesOf(record.cols, config, shard, layer);
  slice.present.assign(slice.col_pieces.size(), true);
  for (size_t i = 0; record.cols == Dim::kQueryHeads && i < slice.present.size(); ++i) {
    slice.present[i] = shard.layers[layer][i].adds_output;
  }
  held.cols = TotalOf(slice.col_pieces);
  const Range experts = ExpertsOf(record, shard);
  for (auto expert = static_cast<int>(experts.begin); expert < experts.end; ++expert) {
    for (const StoredTensor& tensor : record.tensors) {
      if (tensor.name == nullptr) break;
      slice.name = NameOf(tensor, layer, expert);
      slice.rows = SizeOf(tensor.rows, config);
      slice.row_pieces = PiecesOf(tensor.rows, config, shard, layer);
      if (tensor.stacked.every > 0) {
        slice.stacked = {config.experts.count, expert, tensor.stacked.every, tensor.stacked.first};
      }
      held.rows += TotalOf(slice.row_pieces);
      held.tensors.push_back(slice);
    }
  }
  held.whole_experts = record.each_expert && shard.whole_experts;
  held.bias = HasBias(record, config) && (shard.rank == 0 || !held.cuts_columns());
  return held;
}

// Elements of a weight without its bias, and of the bias alone; of experts, of so many.
int64_t ElementsOf(const WeightRecord& record, const ModelConfig& config, Dim cols, int experts) {
  int64_t rows = 0;
  for (const StoredTensor& tensor : record.tensors) rows += tensor.name == nullptr ? 0 : SizeOf(tensor.rows, config);
  return (record.each_expert ? experts : 1) * rows * SizeOf(cols, config);
}

int64_t Count(const ModelConfig& config, int experts) {
  int64_t count = 0;
  EachWeight(config, [&](const WeightRecord& record, int) {
    count += ElementsOf(record, config, record.cols, experts);
    if (HasBias(record, config)) count += ElementsOf(record, config, Dim::kOne, experts);
  });
  return count;
}

}  // namespace

absl::StatusOr<StoredMatrix> FindStored(const SafetensorsModel& files, const QuantizationConfig& quantization,
                                        const TensorSlice& slice) {
  if (slice.stacked.experts > 0)
    return StoredMatrix::FindStacked(files, slice.name, slice.stacked, slice.rows, slice.cols);
  return StoredMatrix::Find(files, quantization, slice.name, slice.rows, slice.cols);
}

std::vector<HeldWeight> HeldWeights(const ModelConfig& config, const RankShard& shard) {
  std::vector<HeldWeight> held;
  EachWeight(config,
             [&](const WeightRecord& record, int layer) { held.push_back(Hold(record, layer, config, shard)); });
  return held;
}

int64_t CountParameters(const ModelConfig& config) { return Count(config, config.experts.count); }

int64_t CountActiveParameters(const ModelConfig& config) { return Count(config, config.experts.chosen); }

std::vector<TokenMatrix> TokenMatrices(const ModelConfig& config) {
  std::vector<TokenMatrix> matrices;
  EachWeight(config, [&](const WeightRecord& record, int layer) {
    if (layer < 0 || record.cols == Dim::kOne) return;
    matrices.push_back({layer, record.role, ElementsOf(record, config, record.cols, config.experts.chosen)});
  });
  return matrices;
}

int64_t TokenMatrixElements(const ModelConfig& config) {
  int64_t count = 0;
  for (const TokenMatrix& matrix : TokenMatrices(config)) count += matrix.elements;
  return count;
}

std::string TensorName(const ModelConfig& config, WeightRole role, int tensor, int layer) {
  std::string name;
  EachWeight(config, [&](const WeightRecord& record, int of_layer) {
    if (record.role != role || (of_layer != layer && of_layer != -1)) return;
    DUO_CHECK(record.tensors[tensor].name != nullptr);
    name = NameOf(record.tensors[tensor], of_layer, 0);
  });
  return name;
}

}  // namespace duo
