// The merge of decode's partials, one for each segment, to the rows' outputs.
#pragma once

#include "kernels/cuda/attention/decode_segment.cuh"
#include "kernels/cuda/partial_sum.cuh"

namespace duo::cuda {

// The partials of one (row, query head): `count` of them from block first_block on, in the slots of one item.
struct RowPartials {
  int first_block = 0, count = 0, item = 0, column = 0;

  template <bool kListed>
  __device__ __forceinline__ RowPartials(const DecodeArgs& args, const PlanWalker<kListed>& walker, uint32_t grid) {
    const DecodePlan plan = walker.Plan(grid);
    const int row = blockIdx.x, head = blockIdx.y / args.group, seq = args.batch.row_seq[row];
    if (seq < 0) return;
    const auto found = walker.Find(UINT32_MAX, kListed ? seq * args.kv.num_heads + head : seq);
    const SequenceWork work = found.work;
    const int in_seq = row - args.batch.spans[seq].first_row;
    if (in_seq < 0 || in_seq >= args.batch.spans[seq].num_rows || work.units == 0) return;
    const int k = in_seq * args.group + blockIdx.y % args.group;
    const int local = (kListed ? 0 : head * work.column_blocks) + k / walker.columns;
    column = k % walker.columns;
    item = found.first_item + local;
    const uint32_t begin = found.first_unit + local * work.units;
    first_block = plan.BlockOf(begin);
    count = plan.BlockOf(begin + work.units - 1) - first_block + 1;
  }
};

// One block per (row, query head): weighs the partials of the row's item.
template <int kHeadDim, bool kListed>
__global__ void __launch_bounds__(32 * kMergeWarps) MergeKernel(DecodeArgs args, int columns, int unit, int grid) {
  const PlanWalker<kListed> walker = {args.batch, args.kv, args.lists, args.part,
                                      args.group, columns, unit,       args.beside};
  const RowPartials of(args, walker, grid);
  const int row = blockIdx.x, head = blockIdx.y;
  WaitForDependency();
  MergePartials<kHeadDim, 8>(
      {args.partial_out, args.partial_lse}, of.count,
      [&](int i) { return int64_t{of.first_block + i + of.item} * columns + of.column; },
      args.out + row * args.out_stride + int64_t{head} * kHeadDim,
      args.lse == nullptr ? nullptr : args.lse + int64_t{head} * args.batch.num_rows + row);
}

}  // namespace duo::cuda
