#include "kernels/ops.h"

#include "kernels/backend.h"
#include "kernels/scale_blocks.h"

namespace duo {
namespace {

void CheckWeight(const Weight& w) {
  DUO_CHECK(w.data != nullptr);
  DUO_CHECK(w.table == CodeTable::kNone || w.dtype == DType::kI4);
  DUO_CHECK_MSG(w.dtype != DType::kI32, Name(w.dtype));
  if (w.table == CodeTable::kE2M1) {
    DUO_CHECK(w.exponents != nullptr);
    DUO_CHECK(w.group == 32 && w.block == 0 && w.cols % 32 == 0);
  } else if (HasGroups(w.dtype) || (w.dtype == DType::kI8 && w.group > 0)) {
    DUO_CHECK(w.groups != nullptr);
    DUO_CHECK(w.group == 32 || w.group == 64 || w.group == 128 || (w.group == 16 && w.dtype == DType::kI8));
    DUO_CHECK_EQ(w.cols % w.pair_cols(), 0);
    DUO_CHECK_EQ(w.subs != nullptr, w.block > 0);
    DUO_CHECK_LE(w.block, 256);
    DUO_CHECK_EQ(w.pair_cols() % w.group, 0);
  } else if (HasRowScales(w.dtype)) {
    DUO_CHECK(w.scales != nullptr);
    if (HasScaleBlocks(w)) {
      for (const int side : {w.block, w.group}) DUO_CHECK(side > 0 && side <= 128 && (side & (side - 1)) == 0);
    }
  }
}

}  // namespace

size_t Weight::bytes() const {
  if (HasScaleBlocks(*this)) return Bytes(dtype, rows * cols) + ScaleCount(*this) * sizeof(float);
  size_t parameters = 0;
  if (HasRowScales(dtype) && group == 0) parameters = rows * sizeof(float);
  if (group > 0) parameters = rows * (cols / pair_cols()) * (exponents != nullptr ? 1 : 2 * sizeof(uint16_t));
  if (group > 0 && block > 0) parameters += rows * (cols / group) * 2;
  return Bytes(dtype, rows * cols) + parameters;
}

size_t LinearScratchBytes(const Device& device, int64_t rows, const Weight& weight) {
  return BackendOf(device).LinearScratchBytes(device, rows, weight);
}

void Linear(Device& device, View out, View x, const Weight& weight, Arena& scratch) {
  CheckWeight(weight);
  DUO_CHECK_EQ(x.cols, weight.cols);
  DUO_CHECK_EQ(out.cols, weight.rows);
  DUO_CHECK_EQ(out.rows, x.rows);
  DUO_CHECK(x.dtype == ActivationType(device));
  DUO_CHECK(out.dtype == ActivationType(device) || out.dtype == DType::kF32);
  if (out.empty()) return;
  BackendOf(device).Linear(device, out, x, weight, scratch);
}

void LinearSwiGlu(Device& device, View out, View gate_up, View x, const Weight& weight, Arena& scratch) {
  CheckWeight(weight);
  DUO_CHECK_EQ(x.cols, weight.cols);
  DUO_CHECK_EQ(gate_up.cols, weight.rows);
  DUO_CHECK_EQ(2 * out.cols, weight.rows);
  DUO_CHECK_EQ(out.rows, x.rows);
  DUO_CHECK_EQ(gate_up.rows, x.rows);
  for (const View& v : {x, gate_up, out}) DUO_CHECK(v.dtype == ActivationType(device));
  if (out.empty()) return;
  BackendOf(device).LinearSwiGlu(device, out, gate_up, x, weight, scratch);
}

void Embed(Device& device, View residual, const int32_t* ids, const Weight& table, int32_t first_id) {
  CheckWeight(table);
  DUO_CHECK(residual.dtype == DType::kF32);
  DUO_CHECK_EQ(residual.cols, table.cols);
  if (residual.empty()) return;
  BackendOf(device).Embed(device, residual, ids, table, first_id);
}

void FillRows(Device& device, View out, const float* row) {
  DUO_CHECK(out.dtype == ActivationType(device));
  if (!out.empty()) BackendOf(device).FillRows(device, out, row);
}

void AddRmsNorm(Device& device, View out, View residual, View add, const float* weight, float eps) {
  DUO_CHECK(residual.dtype == DType::kF32);
  if (!add.empty()) {
    DUO_CHECK(add.dtype == ActivationType(device));
    DUO_CHECK_EQ(add.rows, residual.rows);
    DUO_CHECK_EQ(add.cols, residual.cols);
  }
  if (!out.empty()) {
    DUO_CHECK(out.dtype == ActivationType(device));
    DUO_CHECK(weight != nullptr);
    DUO_CHECK_EQ(out.rows, residual.rows);
    DUO_CHECK_EQ(out.cols, residual.cols);
  }
  if (residual.empty()) return;
  BackendOf(device).AddRmsNorm(device, out, residual, add, weight, eps);
}

void SwiGlu(Device& device, View out, View gate_up) {
  DUO_CHECK(out.dtype == ActivationType(device) && gate_up.dtype == ActivationType(device));
  DUO_CHECK_EQ(gate_up.cols, 2 * out.cols);
  DUO_CHECK_EQ(gate_up.rows, out.rows);
  if (out.empty()) return;
  BackendOf(device).SwiGlu(device, out, gate_up);
}

void GatherRows(Device& device, View out, View in, const int32_t* rows, int count) {
  DUO_CHECK(out.dtype == in.dtype);
  DUO_CHECK(Bits(in.dtype) >= 8);
  DUO_CHECK_EQ(out.cols, in.cols);
  DUO_CHECK_GE(out.rows, count);
  if (count == 0 || in.cols == 0) return;
  BackendOf(device).GatherRows(device, out, in, rows, count);
}

}  // namespace duo
