// Linear for a few rows and fp8 codes with a scale for each block (kernels/scale_blocks.h): the codes are read once,
// straight into tensor-core fragments, at the speed of memory. 1 to 16 rows. Part of kernels/cuda/linear.cc.
#pragma once

#include "kernels/ops.h"

namespace duo::cuda {

constexpr int kScaleBlockRows = 16;

bool ScaleBlocksFit(const Weight& weight);  // by type and shape
// Has each of up to kAlikeRows rows the bits that it has alone, of a weight that fits?
bool ScaleBlocksAlike(const Device& device, const Weight& weight);
// For any number of rows up to kScaleBlockRows.
size_t ScaleBlocksScratchBytes(const Device& device, const Weight& weight);
void ScaleBlocksLinear(Device& device, View out, View x, const Weight& weight, Arena& scratch);
// out [rows, weight.rows / 2] = silu(gate) * up, where weight holds gate's rows, then up's.
void ScaleBlocksLinearGated(Device& device, View out, View x, const Weight& weight, Arena& scratch);

}  // namespace duo::cuda
