// Weight rows to f32, any format. Pure, thread-safe.
#pragma once

#include <cstdint>

#include "kernels/cpu/simd.h"
#include "kernels/ops.h"

namespace duo::cpu {

Code CodeOf(DType type);

// out [count] = value(row, first .. first + count); for int4 first is even.
void DecodeWeightRow(const Weight& weight, int64_t row, int64_t first, int64_t count, float* out);

}  // namespace duo::cpu
