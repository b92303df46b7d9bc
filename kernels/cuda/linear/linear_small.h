// Linear for a few rows: the weights are read once, straight into tensor-core fragments, at the speed of memory.
// 1 to 16 rows; weights bf16, f16, fp8, int8 or int4. Part of kernels/cuda/linear.cc.
#pragma once

#include "kernels/alike_rows.h"
#include "kernels/ops.h"

namespace duo::cuda {

constexpr int kSmallRows = 16;

bool SmallLinearFits(const Weight& weight);  // by type and shape; otherwise a GEMM does it
// Has each of up to kAlikeRows rows the bits that it has alone, of a weight that fits?
bool SmallLinearAlike(const Device& device, const Weight& weight);
size_t SmallLinearScratchBytes(const Device& device, int64_t rows, const Weight& weight);
void SmallLinear(Device& device, View out, View x, const Weight& weight, Arena& scratch);
// out [rows, weight.rows / 2] = silu(gate) * up, where weight holds gate's rows, then up's.
void SmallLinearGated(Device& device, View out, View x, const Weight& weight, Arena& scratch);

}  // namespace duo::cuda
