// Which experts work on which rows: a warp a row.
#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/experts/route_row.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kWarps = 8;
static_assert(kMostExperts <= 32 * 32, "a lane has 32 of them at most");

// Lane l has experts l, l + 32, .., kEach of them at most, in registers: their logits are asked for once.
template <int kEach>
__global__ void __launch_bounds__(32 * kWarps)
    RouteKernel(Routing out, const float* logits, int64_t stride, int rows, int experts, bool normalised) {
  StartOverlapped();
  const int row = blockIdx.x * kWarps + threadIdx.x / 32, lane = threadIdx.x % 32;
  if (row >= rows) return;
  float values[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int e = lane + 32 * i;
    values[i] = e < experts ? logits[row * stride + e] : 0.0f;
  }
  RouteRow(out, row, values, experts, normalised);
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
