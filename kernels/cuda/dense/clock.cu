#include "kernels/base/cuda_check.h"
#include "kernels/clock.h"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

__global__ void StampClockKernel(int64_t* out) { asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(*out)); }

}  // namespace

void StampClock(Device& device, int64_t* out) {
  StampClockKernel<<<1, 1, 0, Stream(device)>>>(out);
  DUO_CUDA_CHECK(cudaGetLastError());
}

}  // namespace duo::cuda
