// Linear for dozens to hundreds of rows of x and coded weights, on Hopper: each code is read once and decoded once, on
// its way to the tensor cores. Part of kernels/cuda/linear.cc.
#pragma once

#include "kernels/ops.h"

namespace duo::cuda {

constexpr int kTileRows = 256;  // the most rows of a call

bool TiledLinearFits(const Device& device, const Weight& weight);  // by device, type and shape
size_t TiledLinearScratchBytes(int64_t rows, const Weight& weight);
void TiledLinear(Device& device, View out, View x, const Weight& weight, Arena& scratch);

}  // namespace duo::cuda
