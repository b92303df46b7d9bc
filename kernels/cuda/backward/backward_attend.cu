// The gradient of window attention: how the kernels of window_gradient.cuh are cut and launched. Gradients are the same
// bits in every run.
#include <algorithm>

#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/cuda/attention/flash.h"
#include "kernels/cuda/backward/window_gradient.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int64_t kSinkRun = 1024;  // rows of a run of the sinks' partial sums, at least
constexpr int64_t kSinkRuns = 32;   // runs, at most

int64_t SinkRunRows(int64_t rows) { return std::max(kSinkRun, RoundUp(CeilDiv(rows, kSinkRuns), kTile)); }

template <int kHeadDim>
void Launch(Device& device, const WindowGradient& args, int kv_heads, const View& dout, const View& out, float* delta) {
  const cudaStream_t stream = Stream(device);
  const int heads = kv_heads * args.group;
  DeltaKernel<kHeadDim><<<static_cast<unsigned>(CeilDiv(int64_t{args.rows} * heads, 8)), 256, 0, stream>>>(
      delta, dout.as<bf16>(), dout.stride, out.as<bf16>(), out.stride, args.rows, heads);
  DUO_CUDA_CHECK(cudaGetLastError());

  constexpr int kTileBytes = kTile * kHeadDim * 2;
  const auto query_kernel = QueryGradientKernel<kHeadDim>;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(query_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 4 * kTileBytes));
  query_kernel<<<dim3(static_cast<unsigned>(CeilDiv(args.rows, kBlockRows)), heads), 32 * kRowWarps, 4 * kTileBytes,
                 stream>>>(args);
  DUO_CUDA_CHECK(cudaGetLastError());

  constexpr int kKeyShared = 6 * kTileBytes + 4 * kTile * sizeof(float);
  const auto key_kernel = KeyGradientKernel<kHeadDim>;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(key_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kKeyShared));
  const int64_t blocks = args.sink_blocks * args.sink_runs + CeilDiv(args.rows - args.sinks, kTile);
  key_kernel<<<dim3(static_cast<unsigned>(blocks), kv_heads), 32 * kKeyWarps, kKeyShared, stream>>>(args);
  DUO_CUDA_CHECK(cudaGetLastError());
  if (args.sinks == 0) return;
  SinkSumKernel<kHeadDim><<<dim3(args.sinks, kv_heads), 2 * kHeadDim, 0, stream>>>(args);
  DUO_CUDA_CHECK(cudaGetLastError());
}

void CheckAligned(const View& v) {
  DUO_CHECK_EQ(reinterpret_cast<uintptr_t>(v.data) % 16, uintptr_t{0});
  DUO_CHECK_EQ(v.stride % 8, 0);
}

size_t DeltaBytes(int64_t rows, const HeadShape& shape) {
  return Arena::Rounded(rows * shape.kv_heads * shape.group * sizeof(float));
}
size_t PartialBytes(int64_t rows, const HeadShape& shape, const WindowMask& mask) {
  const int64_t sinks = std::min<int64_t>(mask.sink, rows), runs = CeilDiv(rows, SinkRunRows(rows));
  return Arena::Rounded(runs * sinks * 2 * shape.kv_cols() * sizeof(float));
}

}  // namespace

absl::Status CheckBackward(const Device& device, int head_dim, int group) {
  return cuda::CheckAttention(device, head_dim, group, KvFormat::kBF16);
}

size_t AttendWindowScratchBytes(const Device&, int64_t, const HeadShape&) { return 0; }

void AttendWindow(Device& device, const Partial& to, const WindowRows& rows, Arena&) {
  for (const View& v : {to.out, rows.qkv}) CheckAligned(v);
  FlashWindow(device, to, rows);
}

size_t AttendWindowBackwardScratchBytes(const Device&, int64_t rows, const HeadShape& shape, const WindowMask& mask) {
  return DeltaBytes(rows, shape) + PartialBytes(rows, shape, mask);
}

void AttendWindowBackward(Device& device, View dqkv, View dout, const Partial& of, const WindowRows& rows,
                          Arena& scratch) {
  const View &out = of.out, &qkv = rows.qkv;
  const HeadShape& shape = rows.shape;
  const WindowMask& mask = rows.mask;
  for (const View& v : {dqkv, dout, out, qkv}) CheckAligned(v);
  const size_t mark = scratch.used();
  const int64_t count = qkv.rows;
  float* delta = static_cast<float*>(scratch.Take(DeltaBytes(count, shape)));
  WindowGradient args = {};
  args.qkv = qkv.as<bf16>();
  args.dout = dout.as<bf16>();
  args.dqkv = dqkv.as<bf16>();
  args.stride = qkv.stride;
  args.dout_stride = dout.stride;
  args.dqkv_stride = dqkv.stride;
  args.lse = of.lse;
  args.delta = delta;
  args.partials = static_cast<float*>(scratch.Take(PartialBytes(count, shape, mask)));
  args.rows = static_cast<int>(count);
  args.group = shape.group;
  args.q_cols = shape.q_cols();
  args.kv_cols = shape.kv_cols();
  args.scale = 1.0f / sqrtf(static_cast<float>(shape.head_dim));
  args.keys = {args.qkv + shape.q_cols(), shape.kv_cols(), qkv.stride, shape.head_dim, mask};
  args.sinks = static_cast<int>(std::min<int64_t>(mask.sink, count));
  args.sink_blocks = static_cast<int>(CeilDiv(args.sinks, kTile));
  args.sink_run = static_cast<int>(SinkRunRows(count));
  args.sink_runs = static_cast<int>(CeilDiv(count, args.sink_run));
  if (shape.head_dim == 64) {
    Launch<64>(device, args, shape.kv_heads, dout, out, delta);
  } else {
    Launch<128>(device, args, shape.kv_heads, dout, out, delta);
  }
  scratch.Rewind(mark);
}

}  // namespace duo::cuda
