// Decode attention over pages: split over keys, any codec read in place, a GQA group sharing each read. Two kernels:
// the partials of a fixed grid of blocks, then their merge. Bound by the bytes of codes read; see decode_tile.cuh for
// the arithmetic and decode_plan.cuh for the split.
#include <algorithm>

#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/attention/decode_merge.cuh"
#include "kernels/cuda/attention/decode_plan.cuh"
#include "kernels/cuda/hopper/rows_hopper.h"

namespace duo::cuda {
namespace {

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
  float* partial_out;  // [slot][columns][head_dim]
  float* partial_lse;  // [slot][columns]
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

template <KvFormat kFormat, int kHeadDim, int kN>
__global__ void __launch_bounds__(DecodeConfig<kFormat, kHeadDim, kN>::kThreads, 1) DecodeKernel(DecodeArgs args) {
  using Config = DecodeConfig<kFormat, kHeadDim, kN>;
  constexpr int kTiles = Config::kTiles, kUnit = Config::kUnit, kWarps = Config::kWarps, kCols = 8 * kN;
  constexpr int kPerPage = kPageTokens / kUnit;
  extern __shared__ float shared[];
  const PagedKv& kv = args.kv;
  LetDependentsStart();
  const PlanWalker walker = {args.batch, kv, args.group, kCols, kUnit};
  const DecodePlan plan = walker.Plan(gridDim.x);
  // Lengths and page tables were there before the step's first kernel; queries and the step's own keys were not.
  WaitForDependency();
  if (blockIdx.x >= plan.blocks) return;
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32, g = lane / 4, c = lane % 4;
  const uint32_t run_end = plan.Begin(blockIdx.x + 1);
  PlanWalker::Found found = {};
  for (uint32_t at = plan.Begin(blockIdx.x); at < run_end;) {
    if (at >= found.first_unit + found.work.units * found.work.items) found = walker.Find(at, 0);
    const SequenceWork work = found.work;
    const SeqSpan span = args.batch.spans[found.seq];
    const uint32_t inside = at - found.first_unit, local = inside / work.units;
    const int head = local / work.column_blocks, column_block = local % work.column_blocks;
    const uint32_t first = inside - local * work.units;
    const uint32_t last = min(first + (run_end - at), work.units);
    at += last - first;

    // This segment: units [first, last) of one item. Column k is (row, query head) = (k / group, k % group).
    const int columns = span.num_rows * args.group - column_block * kCols;
    WarpAttention<kFormat, kHeadDim, kN> warp;
    warp.Reset();
    uint2 q_registers[kN == 1 ? kHeadDim / 16 : 1] = {};
    uint2* q_shared = reinterpret_cast<uint2*>(shared);  // [n][step][lane]; the merge reuses the space
    auto q_at = [&](int col) -> const bf16* {
      if (col >= columns) return nullptr;
      const int k = column_block * kCols + col;
      return args.q + (span.first_row + k / args.group) * args.q_stride +
             (int64_t{head} * args.group + k % args.group) * kHeadDim;
    };
    if constexpr (kN > 1) {
      __syncthreads();
      LoadQ<kFormat, kHeadDim, kN>(
          q_at,
          [&](int n, int step, uint2 f) {
            if (w == 0) q_shared[(n * (kHeadDim / 16) + step) * 32 + lane] = f;
          },
          warp.q_sum, args.scale, lane);
      __syncthreads();
    }
    auto q_fragment = [&](int n, int step) {
      if constexpr (kN == 1) return q_registers[step];
      return q_shared[(n * (kHeadDim / 16) + step) * 32 + lane];
    };

    const int first_row = column_block * kCols / args.group;
    const int tokens = span.history + span.num_rows;
    const int sees_all_below = span.history + first_row + 1;  // no column of this block masks these
    const PageFinder pages(kv, head, kv.split ? span.split_table : span.table);
    const uint32_t skipped = work.skipped;

    RawTile<kFormat, kHeadDim, kTiles> raw;
    const uint32_t last_unit = last;
    uint32_t unit = first + w;
    if (unit < last_unit) {
      uint32_t in_held = unit + skipped;  // units from the first page held here
      const uint8_t* at_page = pages.At(in_held / kPerPage);
      int token = in_held % kPerPage * kUnit;
      int page_start = static_cast<int>(pages.Number(in_held / kPerPage) * kPageTokens);
      int limit = min(tokens - page_start, kPageTokens) - 1;
      raw.LoadK(at_page, token, limit, lane);
      raw.LoadV(at_page, token, limit, lane);
      if constexpr (kN == 1) {  // while the codes are on their way
        LoadQ<kFormat, kHeadDim, kN>(
            q_at, [&](int, int step, uint2 f) { q_registers[step] = f; }, warp.q_sum, args.scale, lane);
      }
      // Addresses run one unit ahead of the loads, so that a page-table look-up is never waited for.
      const uint8_t* next_at = nullptr;
      if (unit + kWarps < last_unit) next_at = pages.At((in_held + kWarps) / kPerPage);
      while (true) {
        float s[kTiles][kN][4];
        uint32_t params[kTiles][2];
#pragma unroll
        for (int t = 0; t < kTiles; ++t) warp.Scores(s[t], raw.k[t], q_fragment);
#pragma unroll
        for (int t = 0; t < kTiles; ++t) params[t][0] = raw.k_params[t][0], params[t][1] = raw.k_params[t][1];
        const int position = page_start + token;
        const bool more = unit + kWarps < last_unit;
        const uint8_t* load_at = next_at;
        if (more) {
          in_held += kWarps;
          token = in_held % kPerPage * kUnit;
          page_start = static_cast<int>(pages.Number(in_held / kPerPage) * kPageTokens);
          limit = min(tokens - page_start, kPageTokens) - 1;
          raw.LoadK(load_at, token, limit, lane);
          if (unit + 2 * kWarps < last_unit) next_at = pages.At((in_held + kWarps) / kPerPage);
        }
#pragma unroll
        for (int t = 0; t < kTiles; ++t) warp.Scale(s[t], params[t], args.scale);
        const bool windowed = kv.window > 0 && position + kv.window <= tokens - 1;
        if (position + kUnit > sees_all_below || windowed) {
#pragma unroll
          for (int n = 0; n < kN; ++n) {
#pragma unroll
            for (int j = 0; j < 2; ++j) {
              const int col = 8 * n + 2 * c + j;
              const int row = span.history + (column_block * kCols + col) / args.group;
#pragma unroll
              for (int t = 0; t < kTiles; ++t) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                  const int key = position + 16 * t + TokenOfRow(g + 8 * h);
                  const bool seen = key <= row && key < tokens && (kv.window == 0 || row - key < kv.window);
                  if (!seen) s[t][n][2 * h + j] = -INFINITY;
                }
              }
            }
          }
        }
        warp.Raise(s);
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          uint32_t p[kN][2];
          warp.Probabilities(p, s[t], raw.v_params[t]);
          warp.Values(p, raw.v[t]);
        }
        if (!more) break;
        raw.LoadV(load_at, token, limit, lane);
        unit += kWarps;
      }
    }
    const uint32_t item = found.first_item + local;
    float* slot_out = args.partial_out + int64_t{blockIdx.x + item} * kCols * kHeadDim;
    float* slot_lse = args.partial_lse + int64_t{blockIdx.x + item} * kCols;
    MergeWarps<kWarps>(
        warp, shared,
        [&](int col, int channel, float x) {
          if (col < columns) slot_out[col * kHeadDim + channel] = x;
        },
        [&](int col, float lse) { slot_lse[col] = lse; });
  }
}

// One block per (row, query head): weighs the partials of the row's item. Warps take partials in turn.
constexpr int kMergeWarps = 16;

template <int kHeadDim>
__global__ void __launch_bounds__(32 * kMergeWarps) MergeKernel(DecodeArgs args, int columns, int unit, int grid) {
  constexpr int kEach = kHeadDim / 32;
  using Vector = typename std::conditional<kEach == 4, float4, float2>::type;
  __shared__ float outs[kMergeWarps][kHeadDim];
  __shared__ float tops[kMergeWarps], sums[kMergeWarps];
  const PlanWalker walker = {args.batch, args.kv, args.group, columns, unit};
  const DecodePlan plan = walker.Plan(grid);
  const int row = blockIdx.x, head = blockIdx.y / args.group;
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32;
  const int seq = args.batch.row_seq[row];
  int first_block = 0, blocks = 0, item = 0, column = 0;
  if (seq >= 0) {
    const PlanWalker::Found found = walker.Find(UINT32_MAX, seq);
    const SequenceWork work = found.work;
    const int in_seq = row - args.batch.spans[seq].first_row;
    if (in_seq >= 0 && in_seq < args.batch.spans[seq].num_rows && work.units > 0) {
      const int k = in_seq * args.group + blockIdx.y % args.group;
      const int local = head * work.column_blocks + k / columns;
      column = k % columns;
      item = found.first_item + local;
      const uint32_t begin = found.first_unit + local * work.units;
      first_block = plan.BlockOf(begin);
      blocks = plan.BlockOf(begin + work.units - 1) - first_block + 1;
    }
  }
  WaitForDependency();
  // Each warp: the weighted sum of its partials, relative to its own largest lse.
  float top = -INFINITY, sum = 0, o[kEach] = {};
  constexpr int kBatch = 8;  // partials whose loads are under way together, lse and output alike
  for (int base = w; base < blocks; base += kBatch * kMergeWarps) {
    float lse[kBatch];
    Vector x[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int index = base + i * kMergeWarps;
      const int64_t at = int64_t{first_block + index + item} * columns + column;
      lse[i] = index < blocks ? args.partial_lse[at] : -INFINITY;
      x[i] = index < blocks ? reinterpret_cast<const Vector*>(args.partial_out + at * kHeadDim)[lane] : Vector{};
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
  for (int j = 0; j < kEach; ++j) outs[w][lane * kEach + j] = o[j];
  if (lane == 0) tops[w] = top, sums[w] = sum;
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

int Grid(const Device& device) { return device.info().multiprocessors; }

// Query columns a pass of the decode kernel takes: as few eights as hold a sequence's rows, up to four.
int ColumnEights(int64_t columns) { return columns <= 8 ? 1 : columns <= 16 ? 2 : 4; }

int64_t Slots(const Device& device, int64_t rows, int group, int heads) {
  return Grid(device) + heads * rows * CeilDiv(group, 32);
}

template <KvFormat kFormat, int kHeadDim, int kN>
void Launch(Device& device, const DecodeArgs& args) {
  using Config = DecodeConfig<kFormat, kHeadDim, kN>;
  const auto kernel = DecodeKernel<kFormat, kHeadDim, kN>;
  constexpr size_t kShared = MergeSharedBytes<Config::kWarps, kHeadDim, kN>();
  static_assert(kShared >= size_t{kN} * kHeadDim / 16 * 32 * sizeof(uint2));
  const int grid = Grid(device);
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  LaunchOverlapped(device, kernel, dim3(grid), dim3(Config::kThreads), kShared, args);
  // The merge works out its share while the last partials are computed, then waits for them.
  LaunchOverlapped(device, MergeKernel<kHeadDim>, dim3(args.batch.num_rows, args.kv.num_heads * args.group),
                   dim3(32 * kMergeWarps), 0, args, 8 * kN, Config::kUnit, grid);
}

template <KvFormat kFormat>
void LaunchFormat(Device& device, const DecodeArgs& args, int eights) {
  if (args.kv.page.head_dim == 64) {
    if (eights == 1) return Launch<kFormat, 64, 1>(device, args);
    if (eights == 2) return Launch<kFormat, 64, 2>(device, args);
    return Launch<kFormat, 64, 4>(device, args);
  }
  if (eights == 1) return Launch<kFormat, 128, 1>(device, args);
  if (eights == 2) return Launch<kFormat, 128, 2>(device, args);
  return Launch<kFormat, 128, 4>(device, args);
}

}  // namespace

size_t DecodeScratchBytes(const Device& device, int max_rows_total, int group, const PagedKv& kv, int64_t max_tokens) {
  // Rows bound the sequences, so that a step may need either kernel's scratch.
  size_t hopper = 0;
  if (HopperRowsUsable(device, kv, 1)) {
    hopper = HopperRowsScratchBytes(device, max_rows_total, group, kv, max_tokens);
    if (HopperRowsUsable(device, kv, max_rows_total)) return hopper;
  }
  // Eight columns a slot for every row in the narrowest form, 32 in the widest; rows bound the sequences.
  const int64_t slots = Slots(device, max_rows_total, group, kv.num_heads);
  return std::max(hopper, Arena::Rounded(slots * 32 * kv.page.head_dim * sizeof(float)) +
                              Arena::Rounded(slots * 32 * sizeof(float)));
}

void AttendPages(Device& device, View out, float* lse, View qkv, const HeadShape& shape, const SeqBatch& batch,
                 const PagedKv& kv, Arena& scratch) {
  if (HopperRowsUsable(device, kv, batch.num_seqs)) {
    return HopperRows(device, out, lse, qkv, shape, batch, kv, scratch);
  }
  const size_t mark = scratch.used();
  const int eights = ColumnEights(int64_t{batch.max_rows} * shape.group);
  const int64_t slots = Slots(device, batch.num_rows, shape.group, kv.num_heads);
  const int64_t first_column = int64_t{kv.first_head} * shape.group * shape.head_dim;
  DecodeArgs args = {};
  args.q = qkv.as<bf16>() + first_column;
  args.q_stride = qkv.stride;
  args.out = out.as<bf16>() + first_column;
  args.out_stride = out.stride;
  args.lse = lse;
  args.group = shape.group;
  args.scale = kLog2e / sqrtf(static_cast<float>(shape.head_dim));
  args.batch = batch;
  args.kv = kv;
  args.partial_out = static_cast<float*>(scratch.Take(slots * 8 * eights * shape.head_dim * sizeof(float)));
  args.partial_lse = static_cast<float*>(scratch.Take(slots * 8 * eights * sizeof(float)));
  switch (kv.page.format) {
    case KvFormat::kBF16:
      LaunchFormat<KvFormat::kBF16>(device, args, eights);
      break;
    case KvFormat::kFp8:
      LaunchFormat<KvFormat::kFp8>(device, args, eights);
      break;
    case KvFormat::kInt8:
      LaunchFormat<KvFormat::kInt8>(device, args, eights);
      break;
    case KvFormat::kInt4:
      LaunchFormat<KvFormat::kInt4>(device, args, eights);
      break;
    case KvFormat::kF32:
      DUO_CHECK_MSG(false, "f32 KV is for the CPU");
  }
  scratch.Rewind(mark);
}

}  // namespace duo::cuda
