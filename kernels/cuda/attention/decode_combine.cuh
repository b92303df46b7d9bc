// The merge of decode's partials, one for each segment, to the rows' outputs.
#pragma once

#include <type_traits>

#include "kernels/cuda/attention/decode_segment.cuh"

namespace duo::cuda {

constexpr int kMergeWarps = 16;

// The partials of one (row, query head): `count` of them from block first_block on, in the slots of one item.
struct RowPartials {
  int first_block = 0, count = 0, item = 0, column = 0;

  __device__ __forceinline__ RowPartials(const DecodeArgs& args, const PlanWalker& walker, uint32_t grid) {
    const DecodePlan plan = walker.Plan(grid);
    const int row = blockIdx.x, head = blockIdx.y / args.group, seq = args.batch.row_seq[row];
    if (seq < 0) return;
    const PlanWalker::Found found = walker.Find(UINT32_MAX, seq);
    const SequenceWork work = found.work;
    const int in_seq = row - args.batch.spans[seq].first_row;
    if (in_seq < 0 || in_seq >= args.batch.spans[seq].num_rows || work.units == 0) return;
    const int k = in_seq * args.group + blockIdx.y % args.group;
    const int local = head * work.column_blocks + k / walker.columns;
    column = k % walker.columns;
    item = found.first_item + local;
    const uint32_t begin = found.first_unit + local * work.units;
    first_block = plan.BlockOf(begin);
    count = plan.BlockOf(begin + work.units - 1) - first_block + 1;
  }
};

// A warp's share of the partials: their sum, weighed relative to the share's largest lse.
template <int kHeadDim>
struct PartialSum {
  static constexpr int kEach = kHeadDim / 32;
  float top = -INFINITY, sum = 0, o[kEach] = {};

  // Warps take partials in turn; loads of kBatch of them are under way together, lse and output alike.
  __device__ __forceinline__ void Add(const DecodeArgs& args, const RowPartials& of, int columns, int lane, int w) {
    using Vector = typename std::conditional<kEach == 4, float4, float2>::type;
    constexpr int kBatch = 8;
    for (int base = w; base < of.count; base += kBatch * kMergeWarps) {
      float lse[kBatch];
      Vector x[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int index = base + i * kMergeWarps;
        const int64_t at = int64_t{of.first_block + index + of.item} * columns + of.column;
        lse[i] = index < of.count ? args.partial_lse[at] : -INFINITY;
        x[i] = index < of.count ? reinterpret_cast<const Vector*>(args.partial_out + at * kHeadDim)[lane] : Vector{};
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
  }
};

// One block per (row, query head): weighs the partials of the row's item.
template <int kHeadDim>
__global__ void __launch_bounds__(32 * kMergeWarps) MergeKernel(DecodeArgs args, int columns, int unit, int grid) {
  __shared__ float outs[kMergeWarps][kHeadDim];
  __shared__ float tops[kMergeWarps], sums[kMergeWarps];
  const PlanWalker walker = {args.batch, args.kv, args.group, columns, unit};
  const RowPartials partials(args, walker, grid);
  const int row = blockIdx.x, lane = threadIdx.x % 32, w = threadIdx.x / 32;
  WaitForDependency();
  PartialSum<kHeadDim> mine;
  mine.Add(args, partials, columns, lane, w);
#pragma unroll
  for (int j = 0; j < mine.kEach; ++j) outs[w][lane * mine.kEach + j] = mine.o[j];
  if (lane == 0) tops[w] = mine.top, sums[w] = mine.sum;
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
    args.out[row * args.out_stride + int64_t{blockIdx.y} * kHeadDim + threadIdx.x] = ToBf16(x);
  }
  if (threadIdx.x == 0 && args.lse != nullptr) {
    args.lse[int64_t{blockIdx.y} * args.batch.num_rows + row] =
        highest == -INFINITY ? -INFINITY : highest + logf(total);
  }
}

}  // namespace duo::cuda
