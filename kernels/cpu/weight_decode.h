// Weight rows to f32, any format. Pure, thread-safe.
#pragma once

#include <cstdint>

#include "kernels/cpu/simd.h"
#include "kernels/ops.h"

namespace duo::cpu {

Code CodeOf(const Weight& weight);

// out [count] = value(row, first .. first + count); for int4 first is even.
void DecodeWeightRow(const Weight& weight, int64_t row, int64_t first, int64_t count, float* out);

// Some of a weight's rows and columns as f32, `stride` from one row to the next.
struct WeightPanel {
  const float* data;
  int64_t stride;
};
struct PanelRange {
  int64_t first_row, rows, first_col, cols;  // for int4 first_col is even
};
// In place where the weight is f32, else decoded to `room`, space for rows * cols f32.
WeightPanel PanelOf(const Weight& weight, const PanelRange& range, void* room);

}  // namespace duo::cpu
