#include <algorithm>

#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/random_fill.h"

namespace duo::cuda {
namespace {

__global__ void FillKernel(FillRun run, uint64_t seed) {
  const int64_t total = run.count * run.runs, step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t at = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; at < total; at += step) FillElement(run, seed, at);
}

}  // namespace

void FillElements(Device& device, const FillRun& run, uint64_t seed) {
  constexpr int kThreads = 256;
  const int64_t total = run.count * run.runs;
  const auto blocks =
      static_cast<unsigned>(std::min<int64_t>(CeilDiv(total, kThreads), int64_t{16} * device.info().multiprocessors));
  FillKernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(device.stream())>>>(run, seed);
  DUO_CUDA_CHECK(cudaGetLastError());
}

}  // namespace duo::cuda
