#include "runtime/weights/weights.h"

#include "absl/strings/str_cat.h"
#include "runtime/weights/families.h"
#include "runtime/weights/matrix_loader.h"
#include "runtime/weights/quantize.h"
#include "runtime/weights/weights_layout.h"

namespace duo {
namespace {

// Pieces of a stored vector of `size` values, one after the other, to `out` in device memory.
absl::Status FillVector(const SafetensorsModel& files, const std::string& name, int64_t size,
                        const std::vector<Range>& pieces, Device& device, const float* out) {
  absl::StatusOr<TensorInfo> tensor =
      files.Require(name, {StoredDType::kF32, StoredDType::kF16, StoredDType::kBF16}, {size});
  if (!tensor.ok()) return tensor.status();
  std::vector<float> values;
  for (const Range& piece : pieces) {
    const size_t end = values.size();
    values.resize(end + piece.size());
    ReadFloats(*tensor, piece.begin, piece.size(), values.data() + end);
  }
  device.Upload(const_cast<float*>(out), values.data(), 4 * values.size());
  return absl::OkStatus();
}

absl::Status FillMatrix(const SafetensorsModel& files, const QuantizationConfig& quantization, const HeldWeight& held,
                        const Weight& w, MatrixLoader& loader) {
  std::vector<MatrixPart> parts;
  for (const TensorSlice& slice : held.tensors) {
    absl::StatusOr<StoredMatrix> matrix = FindStored(files, quantization, slice);
    if (!matrix.ok()) return matrix.status();
    for (const Range& rows : slice.row_pieces) parts.push_back({*matrix, rows, slice.col_pieces, slice.present});
  }
  return loader.Fill(w, parts, held.cuts_columns());
}

// The biases of experts that share a tensor, NAME_bias [experts, rows of one].
absl::Status FillStackedBias(const SafetensorsModel& files, const TensorSlice& slice, Device& device,
                             const float* out) {
  const StackedRows& stacked = slice.stacked;
  if (const std::string part = StackedPartName(slice.name + "_bias", stacked); files.Find(part) != nullptr)
    return FillVector(files, part, slice.rows, slice.row_pieces, device, out);
  const int64_t stored_rows = slice.rows * stacked.every;
  absl::StatusOr<TensorInfo> tensor = files.Require(
      slice.name + "_bias", {StoredDType::kF32, StoredDType::kF16, StoredDType::kBF16}, {stacked.experts, stored_rows});
  if (!tensor.ok()) return tensor.status();
  std::vector<float> values;
  for (const Range& piece : slice.row_pieces) {
    for (int64_t r = piece.begin; r < piece.end; ++r) {
      values.push_back(0);
      ReadFloats(*tensor, stacked.expert * stored_rows + stacked.first + r * stacked.every, 1, &values.back());
    }
  }
  device.Upload(const_cast<float*>(out), values.data(), 4 * values.size());
  return absl::OkStatus();
}

absl::Status FillBias(const SafetensorsModel& files, const HeldWeight& held, const Weight& w, Device& device) {
  const float* out = w.bias;
  for (const TensorSlice& slice : held.tensors) {
    absl::Status s = slice.stacked.experts > 0
                         ? FillStackedBias(files, slice, device, out)
                         : FillVector(files, BiasName(slice.name), slice.rows, slice.row_pieces, device, out);
    if (!s.ok()) return s;
    for (const Range& rows : slice.row_pieces) out += rows.size();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelWeights> LoadWeights(const SafetensorsModel& files, const WeightShare& share, Device& device,
                                         Communicator& comm, const std::function<void(int64_t, int64_t)>& progress) {
  absl::StatusOr<ModelWeights> weights = LayOutWeights(share, device);
  if (!weights.ok()) return weights.status();
  MatrixLoader loader(device, comm, progress, weights->storage.size());
  for (const HeldWeight& held : WeightsOf(share)) {
    const WeightSet& set = held.layer < 0 ? weights->outer : weights->layers[held.layer];
    absl::Status s;
    if (held.is_vector()) {
      const TensorSlice& only = held.tensors[0];
      s = FillVector(files, only.name, only.rows, only.row_pieces, device, set.vector(held.role()));
    } else {
      s = FillMatrix(files, share.config.quantization, held, set[held.role()], loader);
      if (s.ok() && held.bias) s = FillBias(files, held, set[held.role()], device);
    }
    if (!s.ok()) return s;
  }
  return weights;
}

}  // namespace duo
