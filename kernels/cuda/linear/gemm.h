// Dense products by cuBLASLt, bf16 in, f32 sums. Algorithms are chosen by the library's heuristic once per shape and
// kept in the Device's CUDA state. Asynchronous, ordered by the device's stream.
#pragma once

#include "kernels/base/device.h"
#include "kernels/base/view.h"

namespace duo::cuda {

enum class WeightIs {
  kTransposed,  // [out.cols, x.cols] row-major: a linear layer
  kAsStored,    // [x.cols, out.cols] row-major: its gradient
};

// out [rows, outputs] bf16 or f32 = x [rows, inputs] bf16 times the dense weight.
void Gemm(Device& device, View out, View x, const bf16* weight, WeightIs form);

}  // namespace duo::cuda
