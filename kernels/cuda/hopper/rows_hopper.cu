#include <algorithm>

#include "kernels/base/cuda_check.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/hopper/hopper.h"
#include "kernels/cuda/hopper/rows_hopper.cuh"
#include "kernels/cuda/hopper/rows_hopper.h"
#include "kernels/cuda/hopper/tensor_map.h"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

// Adds up the partials of one (row, query head), in an order that depends on the row's position alone: warps take
// ranges in turn, then warps in turn.
constexpr int kMergeWarps = 16;
template <int kHeadDim>
__global__ void __launch_bounds__(32 * kMergeWarps) MergeRows(const __grid_constant__ RowsWork w) {
  constexpr int kEach = kHeadDim / 32;
  using Vector = typename std::conditional<kEach == 4, float4, float2>::type;
  __shared__ float outs[kMergeWarps][kHeadDim];
  __shared__ float tops[kMergeWarps], sums[kMergeWarps];
  LetDependentsStart();
  const int row = blockIdx.x, q_head = blockIdx.y, q_heads = gridDim.y;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  WaitForDependency();
  const RowsOfOne of = w.plan.rows[row];
  float top = -INFINITY, sum = 0, o[kEach] = {};
  constexpr int kBatch = 10;  // partials whose loads are under way together: all of 250,000 tokens
  for (int base = warp; base < of.ranges; base += kBatch * kMergeWarps) {
    float lse[kBatch];
    Vector x[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int range = base + i * kMergeWarps;
      const int slot = range < of.shared_ranges ? of.shared + range * of.shared_stride
                                                : of.own + (range - of.shared_ranges) * of.own_stride;
      const int64_t at = int64_t{slot} * q_heads + q_head;
      lse[i] = range < of.ranges ? w.partial_lse[at] : -INFINITY;
      x[i] = range < of.ranges ? reinterpret_cast<const Vector*>(w.partial + at * kHeadDim)[lane] : Vector{};
    }
    float highest = top;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) highest = fmaxf(highest, lse[i]);
    if (highest == -INFINITY) continue;
    const float factor = Exp2((top - highest) * kLog2e);
    top = highest;
    sum *= factor;
#pragma unroll
    for (int j = 0; j < kEach; ++j) o[j] *= factor;
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const float weight = Exp2((lse[i] - highest) * kLog2e);
      sum += weight;
      const float* values = reinterpret_cast<const float*>(&x[i]);
#pragma unroll
      for (int j = 0; j < kEach; ++j) o[j] += weight * values[j];
    }
  }
#pragma unroll
  for (int j = 0; j < kEach; ++j) outs[warp][lane * kEach + j] = o[j];
  if (lane == 0) tops[warp] = top, sums[warp] = sum;
  __syncthreads();
  float highest = -INFINITY, total = 0;
#pragma unroll
  for (int i = 0; i < kMergeWarps; ++i) highest = fmaxf(highest, tops[i]);
  if (highest > -INFINITY) {
#pragma unroll
    for (int i = 0; i < kMergeWarps; ++i) total += sums[i] * Exp2((tops[i] - highest) * kLog2e);
  }
  if (threadIdx.x < kHeadDim) {
    float x = 0;
    if (highest > -INFINITY) {
#pragma unroll
      for (int i = 0; i < kMergeWarps; ++i) x += outs[i][threadIdx.x] * Exp2((tops[i] - highest) * kLog2e);
      x /= total;
    }
    w.out[row * w.out_stride + int64_t{q_head} * kHeadDim + threadIdx.x] = ToBf16(x);
  }
  if (threadIdx.x == 0 && w.lse != nullptr) {
    w.lse[int64_t{q_head} * w.num_rows + row] = highest == -INFINITY ? -INFINITY : highest + logf(total);
  }
}

// Rows of partials that more than kExactRows rows may take: their ranges are as long as that asks for.
constexpr int64_t kMostSlots = 4096;

RowsCuts CutsFor(int rows, int64_t max_tokens) {
  RowsCuts cuts;
  if (rows <= kExactRows) return cuts;
  const int64_t ranges = std::max<int64_t>(1, kMostSlots / rows);
  const int64_t each = (max_tokens + ranges - 1) / ranges;
  cuts.even = static_cast<int>(std::max<int64_t>(2048, (each + 2047) / 2048 * 2048));
  return cuts;
}
// Rows of partials of a step, at most; never fewer for more tokens.
int64_t Slots(int rows, int64_t max_tokens) {
  const int last = static_cast<int>(std::max<int64_t>(1, max_tokens) - 1);
  if (rows <= kExactRows) return int64_t{rows} * (RowsCuts().RangeOf(last) + 1);
  return rows * (std::min<int64_t>(std::max<int64_t>(1, kMostSlots / rows), last / 2048) + 1);
}
size_t PlanBytes(int rows) {
  return Arena::Rounded(2 * kMostSequences * sizeof(RowsSegment)) +
         Arena::Rounded((2 * kMostSequences + 1) * sizeof(int)) + Arena::Rounded(rows * sizeof(int)) +
         Arena::Rounded(rows * sizeof(RowsOfOne)) + Arena::Rounded(sizeof(uint32_t));
}
size_t PartialBytes(int64_t slots, int q_heads, int head_dim) {
  return Arena::Rounded(slots * q_heads * head_dim * sizeof(float)) + Arena::Rounded(slots * q_heads * sizeof(float));
}

template <int kHeadDim>
void Launch(Device& device, RowsWork& w) {
  using Shape = RowsShape<kHeadDim>;
  const auto kernel = RowsKernel<kHeadDim>;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes));
  LaunchOverlapped(device, kernel, dim3(device.info().multiprocessors), dim3(Shape::kThreads), Shape::kSharedBytes, w);
  LaunchOverlapped(device, MergeRows<kHeadDim>, dim3(w.num_rows, w.heads * w.group), dim3(32 * kMergeWarps), 0, w);
}

}  // namespace

bool HopperRowsUsable(const Device& device, const PagedKv& kv, int num_seqs) {
  return num_seqs <= kMostSequences && IsHopper(device) && kv.page.format == KvFormat::kBF16 &&
         (kv.page.head_dim == 64 || kv.page.head_dim == 128) && kv.window == 0;
}

size_t HopperRowsScratchBytes(const Device& device, int max_rows, int group, const PagedKv& kv, int64_t max_tokens) {
  int64_t slots = 0;
  for (int rows = 1; rows <= max_rows; ++rows) slots = std::max(slots, Slots(rows, max_tokens));
  return PlanBytes(max_rows) + PartialBytes(slots, kv.num_heads * group, kv.page.head_dim);
}

void HopperRows(Device& device, View out, float* lse, View qkv, const HeadShape& shape, const SeqBatch& batch,
                const PagedKv& kv, Arena& scratch) {
  DUO_CHECK_LE(batch.num_seqs, kMostSequences);
  const size_t mark = scratch.used();
  const int d = shape.head_dim;
  const int64_t first_column = int64_t{kv.first_head} * shape.group * d;
  RowsWork w = {};
  w.q = qkv.as<bf16>() + first_column;
  w.q_stride = qkv.stride;
  w.out = out.as<bf16>() + first_column;
  w.out_stride = out.stride;
  w.lse = lse;
  w.num_rows = batch.num_rows;
  w.num_seqs = batch.num_seqs;
  w.heads = kv.num_heads;
  w.group = shape.group;
  w.scale = kLog2e / sqrtf(static_cast<float>(d));
  w.positions = batch.positions;
  w.kv = kv;
  const int64_t row_bytes = d * sizeof(bf16);
  DUO_CHECK_EQ(kv.head_stride % row_bytes, 0);
  DUO_CHECK_LE(kv.head_stride / row_bytes * kv.num_heads, int64_t{INT32_MAX});
  w.head_rows = static_cast<int>(kv.head_stride / row_bytes);
  w.id_rows = static_cast<int>(kv.id_stride() / row_bytes);
  w.pages = BoxMap(reinterpret_cast<const bf16*>(kv.base), int64_t{w.head_rows} * kv.num_heads, row_bytes, d / 64,
                   kTileKeys, d / 64);
  w.cuts = CutsFor(batch.num_rows, batch.max_tokens);
  w.plan.segments = static_cast<RowsSegment*>(scratch.Take(2 * kMostSequences * sizeof(RowsSegment)));
  w.plan.first_item = static_cast<int*>(scratch.Take((2 * kMostSequences + 1) * sizeof(int)));
  w.plan.list = static_cast<int*>(scratch.Take(batch.num_rows * sizeof(int)));
  w.plan.rows = static_cast<RowsOfOne*>(scratch.Take(batch.num_rows * sizeof(RowsOfOne)));
  w.plan.counter = static_cast<uint32_t*>(scratch.Take(sizeof(uint32_t)));
  const int64_t slots = Slots(batch.num_rows, batch.max_tokens) * kv.num_heads * shape.group;
  w.partial = static_cast<float*>(scratch.Take(slots * d * sizeof(float)));
  w.partial_lse = static_cast<float*>(scratch.Take(slots * sizeof(float)));
  LaunchOverlapped(device, PlanRows, dim3(1), dim3(1024), 0, batch, kv, shape.group, w.cuts, w.plan);
  if (d == 64) {
    Launch<64>(device, w);
  } else {
    Launch<128>(device, w);
  }
  scratch.Rewind(mark);
}

}  // namespace duo::cuda
