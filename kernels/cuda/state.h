// What the CUDA backend keeps per Device: library handles, the cuBLASLt workspace, algorithm and plan caches and a few
// kilobytes of counters. Made by the first CUDA op (or AttachCudaState) and destroyed with the Device.
//
// The first op allocates, so it must not be inside a graph capture: call AttachCudaState once after Device::Cuda, or
// run a step eagerly before recording it. Not thread-safe, like the Device it hangs on.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "kernels/base/device.h"

namespace duo {

namespace cuda {
struct CudnnAttention;  // attn_cudnn.cc
void DestroyCudnnAttention(CudnnAttention*);

// A GEMM as cuBLASLt's heuristic sees it: rows, outputs, inputs, row strides of x and out, f32 output, transposed
// weight, alignments.
using GemmKey = std::array<int64_t, 8>;
}  // namespace cuda

struct Device::CudaState {
  cublasLtHandle_t blas = nullptr;
  void* workspace = nullptr;
  static constexpr size_t kWorkspaceBytes = size_t{32} << 20;
  std::map<cuda::GemmKey, cublasLtMatmulAlgo_t> algorithms;

  // Zero between kernels: each kernel that counts arrivals leaves its counters as it found them.
  uint32_t* counters = nullptr;
  static constexpr int kCounters = 1 << 16;
  // Small partial results of ops that have no scratch of their own (SampleShard).
  void* partials = nullptr;
  static constexpr size_t kPartialBytes = size_t{1} << 20;

  // By their number of blocks: how many clusters of blocks that fill a multiprocessor run at once; 0: not asked for yet
  // (linear/linear_tiles.cu).
  std::array<int, 9> clusters_at_once = {};

  // Which experts the rows of a long step chose (experts/experts.cu); grows to the largest.
  std::vector<int32_t> host_slots;

  cuda::CudnnAttention* cudnn = nullptr;  // null until first asked for
};

namespace cuda {

Device::CudaState& State(Device& device);  // made on first use
inline void AttachCudaState(Device& device) { State(device); }
// Blocks of attention over pages, one a multiprocessor. While they run nothing of their size gets in: what is to run
// beside them has a few multiprocessors kept for it, or it would run afterwards.
inline int PageBlocks(const Device& device, int blocks_beside) {
  const int all = device.info().multiprocessors, most_kept = all / 16;
  return all - (blocks_beside < most_kept ? blocks_beside : most_kept);
}
inline cudaStream_t Stream(const Device& device) { return static_cast<cudaStream_t>(device.stream()); }

}  // namespace cuda
}  // namespace duo
