// Which experts work on which rows: a warp a row, its logits read from the cache once for each expert that it chooses.
#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kWarps = 8;
static_assert(kMostExperts <= 32 * 32, "a lane marks its chosen experts in 32 bits");

struct Best {
  float value;
  int expert;
};
__device__ __forceinline__ Best BestOfWarp(Best best) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const float value = __shfl_xor_sync(0xffffffffu, best.value, lanes);
    const int expert = __shfl_xor_sync(0xffffffffu, best.expert, lanes);
    if (value > best.value || (value == best.value && expert < best.expert)) best = {value, expert};
  }
  return best;
}

// Lane l looks at experts l, l + 32, ..
__global__ void __launch_bounds__(32 * kWarps)
    RouteKernel(Routing out, const float* logits, int64_t stride, int rows, int experts, bool normalised) {
  StartOverlapped();
  const int row = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  const float* x = logits + row * stride;
  int32_t* chosen = out.experts + int64_t{row} * out.chosen;
  float* weights = out.weights + int64_t{row} * out.chosen;
  uint32_t taken = 0;
  float top = 0, sum = 0;
  for (int j = 0; j < out.chosen; ++j) {
    Best best = {-INFINITY, kMostExperts};
    for (int i = 0, e = lane; e < experts; ++i, e += 32) {
      if (taken >> i & 1) continue;
      const float value = isnan(x[e]) ? -INFINITY : x[e];
      if (best.expert == kMostExperts || value > best.value) best = {value, e};
    }
    best = BestOfWarp(best);
    if (best.expert % 32 == lane) taken |= 1u << (best.expert / 32);
    if (j == 0) top = best.value;
    const float share = expf(x[best.expert] - top);
    sum += share;
    if (lane == 0) {
      chosen[j] = best.expert;
      weights[j] = share;
    }
  }
  float all = 0;
  bool nan = false;
  for (int e = lane; e < experts; e += 32) {
    all += expf(x[e] - top);
    nan |= isnan(x[e]);
  }
  all = WarpSum(all);
  if (!normalised) sum = all;
  if (__any_sync(0xffffffffu, nan)) sum = NAN;
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
  LaunchOverlapped(device, RouteKernel, dim3(CeilDiv(logits.rows, kWarps)), dim3(32 * kWarps), 0, out,
                   logits.as<const float>(), logits.stride, logits.rows, experts, normalised);
}

void AddGated(Device& device, View out, View add, View gates) {
  LaunchOverlapped(device, AddGatedKernel, dim3(out.rows), dim3(256), 0, out.as<bf16>(), out.stride,
                   add.as<const bf16>(), add.stride, gates.as<const float>(), gates.stride, out.cols);
}

}  // namespace duo::cuda
