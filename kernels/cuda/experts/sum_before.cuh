// Sums over the threads of a block.
#pragma once

namespace duo::cuda {

// Of each thread of a block of whole warps: the sum of x over the threads before it, and over all in *all. of_warps:
// shared memory of its own.
__device__ __forceinline__ int SumBefore(int x, int* of_warps, int* all) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  int sum = x;
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const int before = __shfl_up_sync(0xffffffffu, sum, lanes);
    if (lane >= lanes) sum += before;
  }
  if (lane == 31) of_warps[warp] = sum;
  __syncthreads();
  int before = 0;
  *all = 0;
  for (int w = 0; w < warps; ++w) {
    if (w < warp) before += of_warps[w];
    *all += of_warps[w];
  }
  return before + sum - x;
}

}  // namespace duo::cuda
