// Which devices the kernels of this folder are for.
#pragma once

#include "kernels/base/device.h"

namespace duo::cuda {

// A Hopper GPU, and a build for it: DUO_CUDA_ARCHS names sm_90a (elsewhere these kernels are compiled empty).
inline bool IsHopper(const Device& device) {
#ifdef DUO_HAVE_SM90A
  return device.info().capability == 90;
#else
  static_cast<void>(device);
  return false;
#endif
}

}  // namespace duo::cuda
