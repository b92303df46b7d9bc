#include "kernels/base/card_id.h"

#include <cstring>

#ifdef DUO_HAVE_CUDA
#include <cuda_runtime.h>

#include "kernels/base/cuda_check.h"
#endif

namespace duo {

CardId CardOf([[maybe_unused]] const Device& device) {
  CardId id = {};
#ifdef DUO_HAVE_CUDA
  if (device.is_cuda()) {
    cudaDeviceProp properties;
    DUO_CUDA_CHECK(cudaGetDeviceProperties(&properties, device.ordinal()));
    static_assert(sizeof properties.uuid == sizeof id);
    std::memcpy(id.data(), &properties.uuid, sizeof id);
  }
#endif
  return id;
}

}  // namespace duo
