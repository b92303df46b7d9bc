// StoredMatrix of experts that share a tensor.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "runtime/weights/stored_matrix.h"

namespace duo {
namespace {

constexpr int64_t kMxfp4Group = 32;
constexpr float kE2m1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};  // bit 3 is the sign

}  // namespace

std::string StackedPartName(const std::string& name, const StackedRows& stacked) {
  return absl::StrCat(name, ".", stacked.expert, ".", stacked.first);
}

absl::StatusOr<StoredMatrix> StoredMatrix::FindStacked(const SafetensorsModel& files, const std::string& name,
                                                       const StackedRows& stacked, int64_t rows, int64_t cols) {
  if (const std::string part = StackedPartName(name, stacked); files.Find(part) != nullptr)
    return Find(files, QuantizationConfig(), part, rows, cols);
  StoredMatrix matrix;
  matrix.name_ = name;
  matrix.rows_ = rows;
  matrix.cols_ = cols;
  matrix.stacked_ = stacked;
  const int64_t stored_rows = rows * stacked.every;
  if (files.Find(name + "_blocks") == nullptr) {
    matrix.layout_ = Layout::kStacked;
    absl::StatusOr<TensorInfo> tensor = files.Require(name, {StoredDType::kF32, StoredDType::kF16, StoredDType::kBF16},
                                                      {stacked.experts, cols, stored_rows});
    if (!tensor.ok()) return tensor.status();
    matrix.codes_ = *std::move(tensor);
  } else {
    matrix.layout_ = Layout::kMxfp4;
    matrix.bits_ = 4;
    matrix.group_ = kMxfp4Group;
    matrix.groups_ = cols / kMxfp4Group;
    if (cols % kMxfp4Group != 0) {
      return absl::UnimplementedError(
          absl::StrCat(name, "_blocks: groups of 32 do not divide ", cols, " columns, which is not supported"));
    }
    absl::StatusOr<TensorInfo> codes =
        files.Require(name + "_blocks", {StoredDType::kU8}, {stacked.experts, stored_rows, matrix.groups_, 16});
    if (!codes.ok()) return codes.status();
    absl::StatusOr<TensorInfo> scales =
        files.Require(name + "_scales", {StoredDType::kU8}, {stacked.experts, stored_rows, matrix.groups_});
    if (!scales.ok()) return scales.status();
    matrix.codes_ = *std::move(codes);
    matrix.scales_ = *std::move(scales);
  }
  matrix.file_ = matrix.codes_.file;
  return matrix;
}

int64_t StoredMatrix::StackedRow(int64_t row) const {
  return stacked_.expert * rows_ * stacked_.every + stacked_.first + row * stacked_.every;
}

// The tensor has them as duo does, the even column's code in the low half of a byte.
void StoredMatrix::Mxfp4Codes(int64_t row, int64_t first, int64_t count, const RowCodes& out) const {
  const int64_t group = StackedRow(row) * groups_ + first / kMxfp4Group;
  std::memcpy(out.codes, codes_.data + group * 16, count / 2);
  std::memcpy(out.exponents, scales_.data + group, count / kMxfp4Group);
}

void StoredMatrix::StackedValues(int64_t row, int64_t first, int64_t count, float* out) const {
  if (layout_ == Layout::kStacked) {
    const int64_t stored_rows = rows_ * stacked_.every, at = StackedRow(row) - stacked_.expert * stored_rows;
    for (int64_t c = 0; c < count; ++c) {
      ReadFloats(codes_, (stacked_.expert * cols_ + first + c) * stored_rows + at, 1, out + c);
    }
    return;
  }
  const int64_t groups = StackedRow(row) * groups_;  // before this row
  for (int64_t c = first; c < first + count;) {
    const int64_t group = groups + c / kMxfp4Group, end = std::min(first + count, (c / kMxfp4Group + 1) * kMxfp4Group);
    const float scale = std::ldexp(1.0f, static_cast<int>(scales_.data[group]) - 127);
    for (; c < end; ++c) {
      const uint8_t byte = codes_.data[group * 16 + c % kMxfp4Group / 2];
      const int code = c % 2 == 0 ? byte & 15 : byte >> 4;
      out[c - first] = (code < 8 ? kE2m1[code & 7] : -kE2m1[code & 7]) * scale;
    }
  }
}

}  // namespace duo
