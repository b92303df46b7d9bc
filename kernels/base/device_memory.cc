#include "kernels/base/device_memory.h"

#include <cstdlib>

#include "kernels/base/buffer.h"

#ifdef DUO_HAVE_CUDA
#include <cuda_runtime.h>

#include "kernels/base/cuda_check.h"
#endif

namespace duo {

void* AllocateDeviceMemory(Device& device, size_t bytes) {
  if (device.measuring()) return MeasuredMemory();
#ifdef DUO_HAVE_CUDA
  if (device.is_cuda()) {
    void* data = nullptr;
    if (cudaError_t error = cudaMalloc(&data, bytes); error != cudaSuccess) {
      DUO_CHECK_MSG(error == cudaErrorMemoryAllocation, cudaGetErrorString(error));
      cudaGetLastError();
      return nullptr;
    }
    return data;
  }
#endif
  // The CPU's pages are committed when first written: refuse now what cannot be had, instead of dying half-way.
  if (static_cast<int64_t>(bytes) > device.FreeMemory()) return nullptr;
  return std::aligned_alloc(Arena::kAlignment, Arena::Rounded(bytes));
}

void FreeDeviceMemory(Device& device, void* data) {
  if (device.measuring()) return;
#ifdef DUO_HAVE_CUDA
  if (device.is_cuda()) {
    DUO_CUDA_CHECK(cudaFree(data));
    return;
  }
#endif
  (void)device;
  std::free(data);
}

}  // namespace duo
