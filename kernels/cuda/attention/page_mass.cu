// Where a row looked, of all chosen heads at once: the scores are decode attention's, by tensor cores straight from the
// codes, and a warp sums a page's. One reading of the keys, which is what it takes: warps go from page to page without
// a pause, the next page's place looked up and its first keys on their way while the last ones of a page are summed.
#include <algorithm>

#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/cuda/attention/decode_plan.cuh"
#include "kernels/cuda/attention/decode_tile.cuh"
#include "kernels/cuda/kv/kv_formats.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kWarps = 4, kColumns = 8;
constexpr int kMostHeads = 16;  // of a launch

struct MassArgs {
  float* logs;  // [heads][group][pages]
  int pages;
  float scale;  // 1 / sqrt(d) * log2 e
  MassHead heads[kMostHeads];
};

template <KvFormat kFormat, int kHeadDim>
struct MassConfig {
  static constexpr int kTiles = kFormat == KvFormat::kBF16 ? 1 : 2;
  // Blocks of a multiprocessor, as many as registers allow without spills: the more warps, the more keys are on their
  // way.
  static constexpr bool kLarge = kHeadDim == 128 && kFormat != KvFormat::kInt4;
  static constexpr int kBlocks = kLarge ? 4 : 5;
};

// The largest score of a lane's two columns, in log2 units, and the sum of what lies below it.
struct ColumnSums {
  float top[2] = {-1e30f, -1e30f}, sum[2] = {0, 0};

  __device__ __forceinline__ void Add(int j, float other_top, float other_sum) {
    const float highest = fmaxf(top[j], other_top);
    sum[j] = sum[j] * Exp2(top[j] - highest) + other_sum * Exp2(other_top - highest);
    top[j] = highest;
  }
  template <int kTiles>
  __device__ __forceinline__ void AddScores(const float (&s)[kTiles][1][4]) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      float highest = top[j], more = 0;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) highest = fmaxf(highest, fmaxf(s[t][0][j], s[t][0][j + 2]));
#pragma unroll
      for (int t = 0; t < kTiles; ++t) more += Exp2(s[t][0][j] - highest) + Exp2(s[t][0][j + 2] - highest);
      sum[j] = sum[j] * Exp2(top[j] - highest) + more;
      top[j] = highest;
    }
  }
  // Over the lanes that hold other tokens.
  __device__ __forceinline__ void Join() {
#pragma unroll
    for (int mask = 4; mask < 32; mask *= 2) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float other_top = __shfl_xor_sync(0xffffffffu, top[j], mask);
        Add(j, other_top, __shfl_xor_sync(0xffffffffu, sum[j], mask));
      }
    }
  }
};

// The pages of a head that its row sees and that are held here: numbers [first, end) among those held here.
struct SeenPages {
  int first_page, end_page;  // in the sequence
  uint32_t first, end;

  __device__ __forceinline__ SeenPages(const MassHead& head, int pages) {
    const int position = static_cast<int>(head.row.position), window = head.kv.window;
    first_page = window > 0 && position + 1 > window ? (position + 1 - window) / kPageTokens : 0;
    end_page = min(pages, position / kPageTokens + 1);
    first = static_cast<uint32_t>(head.kv.held_count(first_page));
    end = static_cast<uint32_t>(head.kv.held_count(end_page));
  }
};

template <KvFormat kFormat, int kHeadDim>
__global__ void __launch_bounds__(32 * kWarps, MassConfig<kFormat, kHeadDim>::kBlocks)
    PageMassKernel(const __grid_constant__ MassArgs args) {
  constexpr int kTiles = MassConfig<kFormat, kHeadDim>::kTiles, kUnit = 16 * kTiles;
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4;
  const MassHead& head = args.heads[blockIdx.y];
  const int group = head.row.group, position = static_cast<int>(head.row.position), window = head.kv.window;
  float* logs = args.logs + int64_t{blockIdx.y} * group * args.pages;
  const SeenPages seen(head, args.pages);
  for (int page = blockIdx.x * blockDim.x + threadIdx.x; page < args.pages; page += gridDim.x * blockDim.x) {
    if (page >= seen.first_page && page < seen.end_page && head.kv.holds(page)) continue;
    for (int i = 0; i < group; ++i) logs[int64_t{i} * args.pages + page] = -INFINITY;
  }
  const uint32_t first = seen.first + blockIdx.x * kWarps + threadIdx.x / 32, stride = gridDim.x * kWarps;
  if (first >= seen.end) return;
  const PageFinder<false> pages(head.kv, head.row.head, head.row.table, ListedPages());
  for (int column = 0; column < group; column += kColumns) {
    WarpAttention<kFormat, kHeadDim, 1> warp;
    uint2 fragments[kHeadDim / 16];
    LoadQ<kFormat, kHeadDim, 1>(
        [&](int i) -> const bf16* {
          if (column + i >= group) return nullptr;
          return static_cast<const bf16*>(head.row.q) + int64_t{column + i} * kHeadDim;
        },
        [&](int, int step, uint2 f) { fragments[step] = f; }, warp.q_sum, args.scale, lane);
    uint32_t at = first;
    int page = static_cast<int>(pages.Number(at));
    int last = min(position - page * kPageTokens, kPageTokens - 1);  // the last token that is seen
    const uint8_t* keys = pages.At(at);
    RawTile<kFormat, kHeadDim, kTiles> raw;
    raw.LoadK(keys, 0, last, lane);
    while (true) {
      const bool more = at + stride < seen.end;
      const uint8_t* next_keys = more ? pages.At(at + stride) : nullptr;
      const int next_page = more ? static_cast<int>(pages.Number(at + stride)) : 0;
      const int next_last = min(position - next_page * kPageTokens, kPageTokens - 1);
      const int hidden = window > 0 ? position - window + 1 - page * kPageTokens : 0;  // tokens before it are
      ColumnSums sums;
      for (int token = 0; token <= last; token += kUnit) {
        float s[kTiles][1][4];
        uint32_t params[kTiles][2];
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          warp.Scores(s[t], raw.k[t], [&](int, int step) { return fragments[step]; });
          params[t][0] = raw.k_params[t][0], params[t][1] = raw.k_params[t][1];
        }
        if (token + kUnit <= last) {
          raw.LoadK(keys, token + kUnit, last, lane);
        } else if (more) {
          raw.LoadK(next_keys, 0, next_last, lane);
        }
#pragma unroll
        for (int t = 0; t < kTiles; ++t) warp.Scale(s[t], params[t], args.scale);
        if (token + kUnit - 1 > last || token < hidden) {
#pragma unroll
          for (int t = 0; t < kTiles; ++t) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const int key = token + 16 * t + TokenOfRow(g + 8 * (i / 2));
              if (key > last || key < hidden) s[t][0][i] = -INFINITY;
            }
          }
        }
        sums.AddScores(s);
      }
      sums.Join();
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int q_head = column + 2 * c + j;
        if (g > 0 || q_head >= group) continue;
        logs[int64_t{q_head} * args.pages + page] = (sums.top[j] + log2f(sums.sum[j])) * kLn2;
      }
      if (!more) break;
      at += stride;
      keys = next_keys, page = next_page, last = next_last;
    }
  }
}

template <KvFormat kFormat, int kHeadDim>
void Launch(Device& device, const MassArgs& args, int heads) {
  // One wave: blocks are alike, and a second one would wait for the first.
  const int most = std::max(1, MassConfig<kFormat, kHeadDim>::kBlocks * device.info().multiprocessors / heads);
  const dim3 grid(std::min(CeilDiv(args.pages, kWarps), most), heads);
  PageMassKernel<kFormat, kHeadDim><<<grid, 32 * kWarps, 0, Stream(device)>>>(args);
  DUO_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void PageMass(Device& device, float* out, std::span<const MassHead> heads, int64_t pages) {
  const int group = heads[0].row.group, d = heads[0].kv.page.head_dim;
  DUO_CHECK(d == 64 || d == 128);
  MassArgs args = {};
  args.logs = out;
  args.pages = static_cast<int>(pages);
  args.scale = kLog2e / sqrtf(static_cast<float>(d));
  for (size_t first = 0; first < heads.size();) {
    const KvFormat format = heads[first].kv.page.format;
    int count = 0;
    for (; count < kMostHeads && first + count < heads.size(); ++count) {
      if (heads[first + count].kv.page.format != format) break;
      args.heads[count] = heads[first + count];
    }
    VisitFormat(format, [&](auto chosen) {
      if (d == 64) return Launch<chosen(), 64>(device, args, count);
      Launch<chosen(), 128>(device, args, count);
    });
    args.logs += int64_t{count} * group * pages;
    first += count;
  }
}

}  // namespace duo::cuda
