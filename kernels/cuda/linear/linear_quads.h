// Linear for 3 to 8 rows and codes in groups, to the bits that linear_pieces.h gives each row alone. Part of
// kernels/cuda/linear.cc.
#pragma once

#include "kernels/ops.h"

namespace duo::cuda {

constexpr int kQuadRows = 8;

bool QuadsFit(const Device& device, const Weight& weight);  // by type and shape; PiecesFit besides
size_t QuadsScratchBytes(const Device& device, const Weight& weight);
void QuadsLinear(Device& device, View out, View x, const Weight& weight, Arena& scratch);
// out [rows, weight.rows / 2] = silu(gate) * up, where weight holds gate's rows, then up's.
void QuadsLinearGated(Device& device, View out, View x, const Weight& weight, Arena& scratch);

}  // namespace duo::cuda
