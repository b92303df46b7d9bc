// Streaming heads. Few rows (decode): one block per (row, KV head, block of query heads), its warps sharing the few
// hundred keys; work and latency do not depend on the context. Many rows: flash.cu.
#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/attention/flash.h"
#include "kernels/cuda/attention/streaming_few.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kFewRows = 16;  // beyond, a 128-row block of the flash kernel does less work

template <int kHeadDim, int kN>
__global__ void __launch_bounds__(32 * kStreamingWarps, kN == 1 ? 2 : 1) StreamingKernel(StreamingArgs args) {
  extern __shared__ float shared[];
  LetDependentsStart();
  const int blocks = CeilDiv(args.group, 8 * kN), row = blockIdx.x / blocks;
  AttendStreamingHead<kHeadDim, kN>(args, blockIdx.y, blockIdx.z, row, (blockIdx.x - row * blocks) * 8 * kN, shared,
                                    true, AllWarps());
}

template <int kHeadDim, int kN>
void Launch(Device& device, const StreamingArgs& args) {
  constexpr size_t kShared = MergeSharedBytes<kStreamingWarps, kHeadDim, kN>();
  const auto kernel = StreamingKernel<kHeadDim, kN>;
  const SeqBatch& batch = args.keys.batch;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  const dim3 grid(batch.max_rows * CeilDiv(args.group, 8 * kN), args.keys.kv.num_heads, batch.num_seqs);
  LaunchOverlapped(device, kernel, grid, dim3(32 * kStreamingWarps), kShared, args);
}

}  // namespace

size_t StreamingScratchBytes(const Device&, int, int, const RingKv&) { return 0; }

void AttendStreaming(Device& device, const Partial& to, const StepRows& rows, const RingKv& kv, Arena&) {
  const HeadShape& shape = rows.shape;
  const SeqBatch& batch = rows.batch;
  if (batch.max_rows > kFewRows) return FlashStreaming(device, to, rows, kv);
  const StreamingArgs args = StreamingArgsOf(to, rows, kv);
  const bool narrow = shape.group <= 8;
  if (shape.head_dim == 64) return narrow ? Launch<64, 1>(device, args) : Launch<64, 2>(device, args);
  narrow ? Launch<128, 1>(device, args) : Launch<128, 2>(device, args);
}

}  // namespace duo::cuda
