// For the dispatch files only: both backends' declarations, and whether CUDA's are defined in this build.
// Dispatch reads `if constexpr (kHaveCuda) { if (device.is_cuda()) return cuda::X(..); } return cpu::X(..);`: a
// discarded statement needs no definition, so the CPU build links without stubs.
#pragma once

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cuda/cuda_ops.h"

namespace duo {

#ifdef DUO_HAVE_CUDA
inline constexpr bool kHaveCuda = true;
#else
inline constexpr bool kHaveCuda = false;
#endif

}  // namespace duo
