#include "kernels/backend.h"

namespace duo {

const Backend& BackendOf([[maybe_unused]] const Device& device) {
#ifdef DUO_HAVE_CUDA
  if (device.is_cuda()) return cuda::kBackend;
#endif
  return cpu::kBackend;
}

}  // namespace duo
