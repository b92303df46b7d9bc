// Weights of any format to bf16, for GEMMs that have no kernel of their own for the codes.
#pragma once

#include "kernels/ops.h"

namespace duo::cuda {

// out [count, weight.cols] bf16 = rows [first, first + count) of the weight.
void Dequantize(Device& device, bf16* out, const Weight& weight, int64_t first, int64_t count);
// out [rows, cols] T or f32 += bias [cols].
void AddBias(Device& device, View out, const float* bias);

}  // namespace duo::cuda
