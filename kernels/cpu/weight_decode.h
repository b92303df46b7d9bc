// Weight rows to f32, any format. Pure, thread-safe.
#pragma once

#include <cstdint>

#include "kernels/ops.h"

namespace duo::cpu {

// out [count] = value(row, first .. first + count); for int4 first and count are multiples of its group, or count
// reaches the row's end.
void DecodeWeightRow(const Weight& weight, int64_t row, int64_t first, int64_t count, float* out);

}  // namespace duo::cpu
