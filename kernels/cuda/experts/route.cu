// Which experts work on which rows: a warp a row.
#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kWarps = 8;
static_assert(kMostExperts <= 32 * 32, "a lane has 32 of them at most");

// Numbers that compare as floats do, NaN as -infinity and -0 as 0; and back.
__device__ __forceinline__ uint32_t KeyOf(float x) {
  const uint32_t bits = __float_as_uint(isnan(x) ? -INFINITY : x + 0.0f);
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float OfKey(uint32_t key) {
  return __uint_as_float(key >> 31 != 0 ? key & 0x7fffffffu : ~key);
}

// Lane l has experts l, l + 32, .., kEach of them at most, in registers: their logits are asked for once.
template <int kEach>
__global__ void __launch_bounds__(32 * kWarps)
    RouteKernel(Routing out, const float* logits, int64_t stride, int rows, int experts, bool normalised) {
  StartOverlapped();
  const int row = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  constexpr unsigned kAll = 0xffffffffu;
  const float* x = logits + row * stride;
  uint32_t keys[kEach];  // 0, below any number's: not there, or chosen
  bool nan = false;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int e = lane + 32 * i;
    const float value = e < experts ? x[e] : 0.0f;
    nan |= isnan(value);
    keys[i] = e < experts ? KeyOf(value) : 0;
  }
  const float top = OfKey(__reduce_max_sync(kAll, [&] {
    uint32_t most = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) most = max(most, keys[i]);
    return most;
  }()));
  float all = 0, sum = 0;
#pragma unroll
  for (int i = 0; i < kEach; ++i) all += keys[i] != 0 ? expf(OfKey(keys[i]) - top) : 0.0f;
  all = WarpSum(all);
  int32_t* chosen = out.experts + int64_t{row} * out.chosen;
  float* weights = out.weights + int64_t{row} * out.chosen;
  for (int j = 0; j < out.chosen; ++j) {
    uint32_t most = 0;
    int mine = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (keys[i] > most) most = keys[i], mine = i;
    }
    const uint32_t best = __reduce_max_sync(kAll, most);
    const int expert = __reduce_min_sync(kAll, most == best ? lane + 32 * mine : kMostExperts);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (expert == lane + 32 * i) keys[i] = 0;
    }
    const float share = expf(OfKey(best) - top);
    sum += share;
    if (lane == 0) {
      chosen[j] = expert;
      weights[j] = share;
    }
  }
  if (!normalised) sum = all;
  if (__any_sync(kAll, nan)) sum = NAN;
  __syncwarp();
  for (int j = lane; j < out.chosen; j += 32) weights[j] /= sum;
}

__global__ void AddGatedKernel(bf16* out, int64_t out_stride, const bf16* add, int64_t add_stride, const float* gates,
                               int64_t gate_stride, int cols) {
  StartOverlapped();
  const int64_t row = blockIdx.x;
  const float gate = 1.0f / (1.0f + expf(-gates[row * gate_stride]));
  for (int c = threadIdx.x; c < cols; c += blockDim.x) {
    bf16& to = out[row * out_stride + c];
    to = ToBf16(ToFloat(to) + gate * ToFloat(add[row * add_stride + c]));
  }
}

}  // namespace

void RouteRows(Device& device, const Routing& out, View logits, int experts, bool normalised) {
  const auto kernel = experts <= 256 ? RouteKernel<8> : RouteKernel<kMostExperts / 32>;
  LaunchOverlapped(device, kernel, dim3(CeilDiv(logits.rows, kWarps)), dim3(32 * kWarps), 0, out,
                   logits.as<const float>(), logits.stride, logits.rows, experts, normalised);
}

void AddGated(Device& device, View out, View add, View gates) {
  LaunchOverlapped(device, AddGatedKernel, dim3(out.rows), dim3(256), 0, out.as<bf16>(), out.stride,
                   add.as<const bf16>(), add.stride, gates.as<const float>(), gates.stride, out.cols);
}

}  // namespace duo::cuda
