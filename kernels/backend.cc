#include "kernels/backend.h"

namespace duo {

const Backend& BackendOf([[maybe_unused]] const Device& device) {
#ifdef DUO_HAVE_CUDA
  if (device.is_cuda()) return device.measuring() ? cuda::kMeasuring : cuda::kBackend;
#endif
  return device.measuring() ? cpu::kMeasuring : cpu::kBackend;
}

}  // namespace duo
