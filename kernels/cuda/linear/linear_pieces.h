// Linear for 1 or 2 rows and codes in groups, of one level or two or of a table: each weight is read once and each row
// has the bits that it has alone. Part of kernels/cuda/linear.cc.
#pragma once

#include "kernels/ops.h"

namespace duo::cuda {

constexpr int kPieceRows = 2;  // of more rows, linear_quads.h's multiplies by no zeros

bool PiecesFit(const Weight& weight);  // by type and shape
size_t PiecesScratchBytes(const Device& device, const Weight& weight);
void PiecesLinear(Device& device, View out, View x, const Weight& weight, Arena& scratch);
// out [rows, weight.rows / 2] = silu(gate) * up, where weight holds gate's rows, then up's.
void PiecesLinearGated(Device& device, View out, View x, const Weight& weight, Arena& scratch);

}  // namespace duo::cuda
