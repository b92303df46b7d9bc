// What stands between attention and a mixture's experts, of a few rows: the sum and its norm, the router's product and
// the choice, in one launch of a cluster of blocks a row. Each block has a slice of the row's columns: it adds and
// norms it, and multiplies the router's columns by it; sums of squares and of products meet in the blocks' shared
// memory. The router's weights do not depend on earlier kernels: they are in registers before the wait.
#include <cooperative_groups.h>

#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/base/row_norm.cuh"
#include "kernels/cuda/experts/route_row.cuh"
#include "kernels/cuda/state.h"
#include "kernels/norm_route.h"

namespace duo::cuda {
namespace {

constexpr int kBlocks = 8;  // of a row: what every device runs as a cluster
constexpr int kThreads = 512, kWarps = kThreads / 32;
constexpr int kOfWarp = 8, kMostOutputs = kOfWarp * kWarps;  // outputs of the router
constexpr int kMostRounds = 2, kMostSlice = kMostRounds * 256;
constexpr int64_t kMostRows = 16;

struct NormRouteArgs {
  Routing routing;
  float* logits;
  int64_t logits_stride;
  bf16* normed;
  int64_t normed_stride;
  float* residual;
  int64_t residual_stride;
  const bf16* add;  // or null
  int64_t add_stride;
  const float* weight;
  const bf16* router;
  const float* bias;  // of the router, or null
  int dim, outputs, experts;
  float eps;
  bool normalised;
};

__device__ __forceinline__ float Dot(const uint4& a, const uint4& b, float sum) {
  const uint32_t of_a[4] = {a.x, a.y, a.z, a.w}, of_b[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum = fmaf(LowBf16(of_a[i]), LowBf16(of_b[i]), sum);
    sum = fmaf(HighBf16(of_a[i]), HighBf16(of_b[i]), sum);
  }
  return sum;
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

// kRounds: 256 columns each of a block's slice. Warp w has outputs w, w + kWarps, ..
template <int kRounds>
__global__ void __launch_bounds__(kThreads) NormRouteKernel(NormRouteArgs args) {
  namespace cg = cooperative_groups;
  const cg::cluster_group cluster = cg::this_cluster();
  __shared__ uint4 x[kMostSlice / 8];                // the normed slice
  __shared__ float squares[kBlocks];                 // of each block
  __shared__ float products[kBlocks][kMostOutputs];  // of each block, in the first one
  const int rank = static_cast<int>(cluster.block_rank()), lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t row = blockIdx.x / kBlocks;
  const int slice = args.dim / kBlocks, first = rank * slice;
  cluster.barrier_arrive();  // that all blocks have begun
  uint4 router[kOfWarp][kRounds];
#pragma unroll
  for (int j = 0; j < kOfWarp; ++j) {
    const int output = warp + kWarps * j;
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const int chunk = lane + 32 * r;
      router[j][r] = {};
      if (output < args.outputs && chunk * 8 < slice) {
        router[j][r] = *reinterpret_cast<const uint4*>(args.router + int64_t{output} * args.dim + first + chunk * 8);
      }
    }
  }
  const int column = first + 4 * static_cast<int>(threadIdx.x);
  const bool has_columns = 4 * static_cast<int>(threadIdx.x) < slice;
  float weight[4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (has_columns) weight[i] = args.weight[column + i];
  }
  LetDependentsStart();
  WaitForDependency();
  float4 sum = {};
  if (has_columns) {
    float4* at = reinterpret_cast<float4*>(args.residual + row * args.residual_stride + column);
    sum = *at;
    if (args.add != nullptr) {
      const uint2 a = *reinterpret_cast<const uint2*>(args.add + row * args.add_stride + column);
      sum.x += LowBf16(a.x), sum.y += HighBf16(a.x), sum.z += LowBf16(a.y), sum.w += HighBf16(a.y);
      *at = sum;
    }
  }
  const float of_slice = BlockSum(sum.x * sum.x + sum.y * sum.y + sum.z * sum.z + sum.w * sum.w);
  cluster.barrier_wait();
  if (threadIdx.x < kBlocks) *cluster.map_shared_rank(&squares[rank], threadIdx.x) = of_slice;
  cluster.sync();
  float all = 0;
#pragma unroll
  for (int r = 0; r < kBlocks; ++r) all += squares[r];
  const float factor = 1.0f / sqrtf(all / args.dim + args.eps);
  if (has_columns) {
    const uint2 out = {PackBf16(sum.x * factor * weight[0], sum.y * factor * weight[1]),
                       PackBf16(sum.z * factor * weight[2], sum.w * factor * weight[3])};
    reinterpret_cast<uint2*>(x)[threadIdx.x] = out;
    *reinterpret_cast<uint2*>(args.normed + row * args.normed_stride + column) = out;
  }
  __syncthreads();
  float dots[kOfWarp] = {};
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const int chunk = lane + 32 * r;
    if (chunk * 8 >= slice) break;
    const uint4 of_x = x[chunk];
#pragma unroll
    for (int j = 0; j < kOfWarp; ++j) dots[j] = Dot(router[j][r], of_x, dots[j]);
  }
  float* to = cluster.map_shared_rank(&products[rank][0], 0);
#pragma unroll
  for (int j = 0; j < kOfWarp; ++j) dots[j] = WarpSum(dots[j]);
#pragma unroll
  for (int j = 0; j < kOfWarp; ++j) {
    if (lane == j) to[warp + kWarps * j] = dots[j];
  }
  cluster.sync();
  if (rank != 0 || warp != 0) return;
  float values[kMostOutputs / 32];
#pragma unroll
  for (int i = 0; i < kMostOutputs / 32; ++i) {
    const int output = lane + 32 * i;
    float value = 0;
#pragma unroll
    for (int r = 0; r < kBlocks; ++r) value += products[r][output];
    if (output < args.outputs) {
      if (args.bias != nullptr) value += args.bias[output];
      args.logits[row * args.logits_stride + output] = value;
    }
    values[i] = value;
  }
  RouteRow(args.routing, row, values, args.experts, args.normalised);
}

#else
template <int kRounds>
__global__ void NormRouteKernel(NormRouteArgs) {}
#endif

bool Aligned(const void* p, int64_t stride, int bytes, int size) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0 && stride * size % bytes == 0;
}

}  // namespace

bool CanNormAndRoute(const Device& device, const NormedRows& rows, const Weight& router) {
  const int64_t dim = rows.residual.cols;
  return device.info().capability >= 90 && rows.residual.rows <= kMostRows && router.dtype == DType::kBF16 &&
         router.rows <= kMostOutputs && dim % (8 * kBlocks) == 0 && dim <= kMostSlice * kBlocks &&
         Aligned(router.data, router.cols, 16, 2) && Aligned(rows.residual.data, rows.residual.stride, 16, 4) &&
         Aligned(rows.out.data, rows.out.stride, 8, 2) &&
         (rows.add.empty() || Aligned(rows.add.data, rows.add.stride, 8, 2));
}

void NormAndRoute(Device& device, const Routing& out, View logits, const NormedRows& rows, const Weight& router,
                  int experts, bool normalised) {
  NormRouteArgs args = {};
  args.routing = out;
  args.logits = logits.as<float>();
  args.logits_stride = logits.stride;
  args.normed = rows.out.as<bf16>();
  args.normed_stride = rows.out.stride;
  args.residual = rows.residual.as<float>();
  args.residual_stride = rows.residual.stride;
  if (!rows.add.empty()) {
    args.add = rows.add.as<const bf16>();
    args.add_stride = rows.add.stride;
  }
  args.weight = rows.weight;
  args.router = static_cast<const bf16*>(router.data);
  args.bias = router.bias;
  args.dim = static_cast<int>(rows.residual.cols);
  args.outputs = static_cast<int>(router.rows);
  args.experts = experts;
  args.eps = rows.eps;
  args.normalised = normalised;
  const auto kernel = args.dim / kBlocks <= 256 ? NormRouteKernel<1> : NormRouteKernel<2>;
  LaunchClusters(device, kernel, dim3(static_cast<unsigned>(kBlocks * rows.residual.rows)), kBlocks, dim3(kThreads), 0,
                 args);
}

}  // namespace duo::cuda
