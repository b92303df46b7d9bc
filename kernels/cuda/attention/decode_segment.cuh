// The decode kernel: a block's run of units, segment by segment, to one partial result a segment.
#pragma once

#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/attention/decode_merge.cuh"
#include "kernels/cuda/attention/decode_plan.cuh"
#include "kernels/cuda/attention/unit_mass.cuh"

namespace duo::cuda {

struct DecodeArgs {
  const bf16* q;  // the rows' query heads of kv's first KV head
  int64_t q_stride;
  bf16* out;  // likewise
  int64_t out_stride;
  float* lse;  // [num_heads * group][num_rows] or null
  int group;
  float scale;  // 1 / sqrt(d) * log2 e
  SeqBatch batch;
  PagedKv kv;
  DecodeLists lists;
  ChunkPart part;      // keys of one kind, where the kernel has kChunked
  float* partial_out;  // [slot][columns][head_dim]
  float* partial_lse;  // [slot][columns]
  bool keeps_room;     // multiprocessors are kept for what runs beside
  MassOut mass;        // where the kernel has kMass
  WorkBeside beside;   // streaming heads, which blocks of the staged kernel attend first
};

// Warps, tokens in flight per warp and blocks a multiprocessor, chosen so that registers suffice without spills and
// more than 30 KB of loads are under way.
template <KvFormat kFormat, int kHeadDim, int kN>
struct DecodeConfig {
  static constexpr bool kTwo = kN == 2 || (kN == 1 && (kFormat == KvFormat::kInt4 || kHeadDim == 64));
  static constexpr int kTiles = kTwo && kFormat != KvFormat::kBF16 ? 2 : 1;
  static constexpr int kWarps = kN > 1 || (kFormat == KvFormat::kBF16 && kHeadDim == 128) ? 8 : 12;
  static constexpr int kUnit = 16 * kTiles;
  static constexpr int kThreads = 32 * kWarps;
};

// Units [first, last) of one item, which a block attends to at once; of those, the ones before `end` hold tokens.
// Column k of the item's sequence is (row, query head) = (k / group, k % group); the item's columns start at
// first_column.
template <bool kListed>
struct Segment {
  SeqSpan span;                        // of a listed head with its positions shifted
  int head, first_column, columns;     // columns: those that there are from first_column on
  uint32_t first, last, end, skipped;  // skipped: held pages before the window, in units
  uint32_t item;
  ListedPages listed;

  __device__ __forceinline__ Segment() {}
  __device__ __forceinline__ Segment(const DecodeArgs& args, const typename PlanWalker<kListed>::Found& found,
                                     uint32_t at, uint32_t run_end, int block_columns) {
    const SequenceWork& work = found.work;
    const uint32_t inside = at - found.first_unit, local = inside / work.units;
    if constexpr (kListed) {
      span = args.batch.spans[found.seq / args.kv.num_heads];
      head = found.seq % args.kv.num_heads;
      listed = ListedPages(args.lists, span, head);
      span.history -= listed.left_out();
    } else {
      span = args.batch.spans[found.seq];
      head = local / work.column_blocks;
    }
    first_column = local % work.column_blocks * block_columns;
    columns = span.num_rows * args.group - first_column;
    first = inside - local * work.units;
    last = min(first + (run_end - at), work.units);
    end = min(last, work.there);
    skipped = work.skipped;
    item = found.first_item + local;
  }
  __device__ __forceinline__ int tokens() const { return span.history + span.num_rows; }
};

// Where a warp's units lie. Page addresses run one unit ahead of the loads, so that a page-table look-up is never
// waited for.
template <int kUnit, bool kListed>
struct UnitWalk {
  static constexpr int kPerPage = kPageTokens / kUnit;
  PageFinder<kListed> pages;
  int tokens;        // of the sequence
  uint32_t in_held;  // the unit, from the first page held here on
  int token, page_start, limit;

  __device__ __forceinline__ UnitWalk(const PagedKv& kv, const Segment<kListed>& at)
      : pages(kv, at.head, kv.split ? at.span.split_table : at.span.table, at.listed), tokens(at.tokens()) {}
  __device__ __forceinline__ void Go(uint32_t unit_in_held) {
    in_held = unit_in_held;
    token = in_held % kPerPage * kUnit;
    page_start = static_cast<int>(pages.Number(in_held / kPerPage) * kPageTokens);
    limit = min(tokens - page_start, kPageTokens) - 1;
  }
  __device__ __forceinline__ const uint8_t* PageOf(uint32_t unit_in_held) const {
    return pages.At(unit_in_held / kPerPage);
  }
};

// Scores of the unit at `position` that a column's row must not see.
template <bool kChunked, int kTiles, int kN, bool kListed>
__device__ __forceinline__ void HideUnseen(float (&s)[kTiles][kN][4], const DecodeArgs& args,
                                           const Segment<kListed>& at, int position) {
  const int g = threadIdx.x % 32 / 4, c = threadIdx.x % 4, window = args.kv.window;
#pragma unroll
  for (int n = 0; n < kN; ++n) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int row = at.span.history + (at.first_column + 8 * n + 2 * c + j) / args.group;
      KeyRange kind = {0, INT32_MAX};
      if constexpr (kChunked) kind = args.part.Keys(row);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int key = position + 16 * t + TokenOfRow(g + 8 * h);
          bool seen = key <= row && key < at.tokens() && (window == 0 || row - key < window);
          if constexpr (kChunked) seen = seen && key >= kind.begin && key < kind.end;
          if (!seen) s[t][n][2 * h + j] = -INFINITY;
        }
      }
    }
  }
}

// What follows a unit's scores `s`, which have the keys' parameters yet to come: probabilities and values. raw: the
// values and their parameters.
template <bool kMass, bool kChunked, KvFormat kFormat, int kHeadDim, int kN, int kTiles, bool kListed>
__device__ __forceinline__ void AttendScored(WarpAttention<kFormat, kHeadDim, kN>& warp, float (&s)[kTiles][kN][4],
                                             const uint32_t (&k_params)[kTiles][2],
                                             const RawTile<kFormat, kHeadDim, kTiles>& raw, const DecodeArgs& args,
                                             const Segment<kListed>& at, int position, int tokens) {
  constexpr int kUnit = 16 * kTiles;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) warp.Scale(s[t], k_params[t], args.scale);
  // No column of this block masks the keys below.
  const int sees_all_below = at.span.history + at.first_column / args.group + 1;
  const bool windowed = args.kv.window > 0 && position + args.kv.window <= tokens - 1;
  if (kChunked || position + kUnit > sees_all_below || windowed) HideUnseen<kChunked>(s, args, at, position);
  warp.Raise(s);
  float of_unit[2] = {};  // of the lane's two columns
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    uint32_t p[kN][2];
    warp.Probabilities(p, s[t], raw.v_params[t], [&](int, float p0, float p1) {
      if constexpr (kMass) of_unit[0] += p0, of_unit[1] += p1;
    });
    warp.Values(p, raw.v[t]);
  }
  if constexpr (kMass) {
    if ((args.mass.heads >> at.head & 1) == 0) return;
    const UnitPlace place = {position / kPageTokens, position % kPageTokens / kUnit, position + kUnit >= tokens};
    KeepUnitMass<kUnit>(args.mass, args.group, at.head, at.first_column, place, of_unit, warp.top[0]);
  }
}

// A block's attention over one segment, to the segment's slot of the partials. waits: nothing has waited yet for the
// kernels before this one. Keys of earlier steps do not depend on them, so their first codes are fetched meanwhile.
// ends: the block has no segment behind it. kMass: one row's, whose log masses of units are wanted, too. kChunked: of
// keys of one kind.
template <KvFormat kFormat, int kHeadDim, int kN, bool kListed, bool kMass, bool kChunked>
__device__ __forceinline__ void AttendSegment(const DecodeArgs& args, const Segment<kListed>& at, float* shared,
                                              bool waits, bool ends) {
  using Config = DecodeConfig<kFormat, kHeadDim, kN>;
  constexpr int kTiles = Config::kTiles, kUnit = Config::kUnit, kWarps = Config::kWarps, kCols = 8 * kN;
  constexpr int kSteps = kHeadDim / 16;
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32;
  WarpAttention<kFormat, kHeadDim, kN> warp;
  warp.Reset();
  uint2 q_registers[kN == 1 ? kSteps : 1] = {};
  uint2* q_shared = reinterpret_cast<uint2*>(shared);  // [n][step][lane]; the merge reuses the space
  auto q_at = [&](int col) -> const bf16* {
    if (col >= at.columns) return nullptr;
    const int k = at.first_column + col;
    return args.q + (at.span.first_row + k / args.group) * args.q_stride +
           (int64_t{at.head} * args.group + k % args.group) * kHeadDim;
  };
  if constexpr (kN > 1) {
    if (waits) WaitForDependency();
    waits = false;
    __syncthreads();
    LoadQ<kFormat, kHeadDim, kN>(
        q_at,
        [&](int n, int step, uint2 f) {
          if (w == 0) q_shared[(n * kSteps + step) * 32 + lane] = f;
        },
        warp.q_sum, args.scale, lane);
    __syncthreads();
  }
  auto q_fragment = [&](int n, int step) {
    if constexpr (kN == 1) return q_registers[step];
    return q_shared[(n * kSteps + step) * 32 + lane];
  };

  UnitWalk<kUnit, kListed> walk(args.kv, at);
  RawTile<kFormat, kHeadDim, kTiles> raw;
  const uint32_t last = at.end;
  uint32_t unit = at.first + w;
  if (unit < last) {
    walk.Go(unit + at.skipped);
    const uint8_t* load_at = walk.PageOf(walk.in_held);
    const int held = at.span.history - kUnit;  // a unit that starts here or before is all of earlier steps
    if (waits && walk.page_start + walk.token > held) {
      WaitForDependency();
      waits = false;
    }
    raw.LoadK(load_at, walk.token, walk.limit, lane);
    raw.LoadV(load_at, walk.token, walk.limit, lane);
    if (waits) {
      WaitForDependency();
    }
    if constexpr (kN == 1) {  // while the codes are on their way
      LoadQ<kFormat, kHeadDim, kN>(
          q_at, [&](int, int step, uint2 f) { q_registers[step] = f; }, warp.q_sum, args.scale, lane);
    }
    const uint8_t* next_at = nullptr;
    if (unit + kWarps < last) next_at = walk.PageOf(walk.in_held + kWarps);
    while (true) {
      float s[kTiles][kN][4];
      uint32_t params[kTiles][2];
#pragma unroll
      for (int t = 0; t < kTiles; ++t) warp.Scores(s[t], raw.k[t], q_fragment);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) params[t][0] = raw.k_params[t][0], params[t][1] = raw.k_params[t][1];
      const int position = walk.page_start + walk.token;
      const bool more = unit + kWarps < last;
      load_at = next_at;
      if (more) {
        walk.Go(walk.in_held + kWarps);
        raw.LoadK(load_at, walk.token, walk.limit, lane);
        if (unit + 2 * kWarps < last) next_at = walk.PageOf(walk.in_held + kWarps);
      }
      AttendScored<kMass, kChunked>(warp, s, params, raw, args, at, position, walk.tokens);
      if (!more) break;
      raw.LoadV(load_at, walk.token, walk.limit, lane);
      unit += kWarps;
    }
  } else if (waits) {
    WaitForDependency();
  }
  // Not before: blocks of the merge would take the room that is kept for what runs beside.
  if (ends && args.keeps_room) LetDependentsStart();
  float* slot_out = args.partial_out + int64_t{blockIdx.x + at.item} * kCols * kHeadDim;
  float* slot_lse = args.partial_lse + int64_t{blockIdx.x + at.item} * kCols;
  MergeWarps<kWarps>(
      warp, shared,
      [&](int col, int channel, float x) {
        if (col < at.columns) slot_out[col * kHeadDim + channel] = x;
      },
      [&](int col, float lse) { slot_lse[col] = lse; });
}

template <KvFormat kFormat, int kHeadDim, int kN, bool kListed, bool kMass, bool kChunked>
__global__ void __launch_bounds__(DecodeConfig<kFormat, kHeadDim, kN>::kThreads, 1) DecodeKernel(DecodeArgs args) {
  constexpr int kCols = 8 * kN;
  extern __shared__ float shared[];
  if (!args.keeps_room) LetDependentsStart();
  using Walker = PlanWalker<kListed>;
  const Walker walker = {
      args.batch, args.kv, args.lists, args.part, args.group, kCols, DecodeConfig<kFormat, kHeadDim, kN>::kUnit,
      args.beside};
  const DecodePlan plan = walker.Plan(gridDim.x);
  // Lengths, page tables and the keys of earlier steps were there before the step's first kernel, which overlaps with
  // nothing before it; queries and the step's own keys were not.
  if (blockIdx.x >= plan.blocks) return WaitForDependency();
  bool waits = true;
  const uint32_t run_end = plan.Begin(blockIdx.x + 1);
  typename Walker::Found found = {};
  for (uint32_t at = plan.Begin(blockIdx.x); at < run_end;) {
    if (at >= found.first_unit + found.work.units * found.work.items) found = walker.Find(at, 0);
    const Segment<kListed> segment(args, found, at, run_end, kCols);
    at += segment.last - segment.first;
    AttendSegment<kFormat, kHeadDim, kN, kListed, kMass, kChunked>(args, segment, shared, waits, at >= run_end);
    waits = false;
  }
  if (waits) WaitForDependency();  // nothing to attend to here: later kernels still count on all before this one
}

}  // namespace duo::cuda
