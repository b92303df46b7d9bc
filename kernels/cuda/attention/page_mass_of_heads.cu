// Where a row of answers looked, of all heads at once: the scores are decode attention's, by tensor cores straight from
// the codes, and a warp sums a page's. One reading of the keys.
#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/cuda/attention/decode_tile.cuh"
#include "kernels/cuda/kv/kv_formats.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kWarps = 8, kColumns = 8;

struct MassArgs {
  float* logs;  // [heads][group][pages]
  const bf16* q;
  PagedKv kv;
  int table, position, group, pages;
  float scale;  // 1 / sqrt(d) * log2 e
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

template <KvFormat kFormat, int kHeadDim>
__global__ void __launch_bounds__(32 * kWarps, 2) HeadMassKernel(const __grid_constant__ MassArgs args) {
  constexpr int kTiles = kFormat == KvFormat::kBF16 ? 1 : 2, kUnit = 16 * kTiles;
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4, head = blockIdx.y;
  const int first = blockIdx.x * kWarps + threadIdx.x / 32, stride = gridDim.x * kWarps;
  const PagedKv& kv = args.kv;
  const int32_t* ids = kv.tables + args.table * kv.table_stride;
  for (int column = 0; column < args.group; column += kColumns) {
    WarpAttention<kFormat, kHeadDim, 1> warp;
    uint2 fragments[kHeadDim / 16];
    LoadQ<kFormat, kHeadDim, 1>(
        [&](int i) -> const bf16* {
          if (column + i >= args.group) return nullptr;
          return args.q + (int64_t{head} * args.group + column + i) * kHeadDim;
        },
        [&](int, int step, uint2 f) { fragments[step] = f; }, warp.q_sum, args.scale, lane);
    for (int page = first; page < args.pages; page += stride) {
      const uint8_t* at = kv.base + head * kv.head_stride + __ldg(ids + page) * kv.id_stride();
      const int last = min(args.position - page * kPageTokens, kPageTokens - 1);
      RawTile<kFormat, kHeadDim, kTiles> raw;
      raw.LoadK(at, 0, last, lane);
      ColumnSums sums;
      for (int token = 0; token <= last; token += kUnit) {
        float s[kTiles][1][4];
        uint32_t params[kTiles][2];
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          warp.Scores(s[t], raw.k[t], [&](int, int step) { return fragments[step]; });
          params[t][0] = raw.k_params[t][0], params[t][1] = raw.k_params[t][1];
        }
        if (token + kUnit <= last) raw.LoadK(at, token + kUnit, last, lane);
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          warp.Scale(s[t], params[t], args.scale);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if (token + 16 * t + TokenOfRow(g + 8 * (i / 2)) > last) s[t][0][i] = -INFINITY;
          }
        }
        sums.AddScores(s);
      }
      sums.Join();
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int q_head = column + 2 * c + j;
        if (g > 0 || q_head >= args.group) continue;
        args.logs[(int64_t{head} * args.group + q_head) * args.pages + page] =
            (sums.top[j] + log2f(sums.sum[j])) * kLn2;
      }
    }
  }
}

template <KvFormat kFormat, int kHeadDim>
void Launch(Device& device, const MassArgs& args) {
  // Some turns of each block, so that the last ones end together.
  const int most = CeilDiv(8 * device.info().multiprocessors, args.kv.num_heads);
  const dim3 grid(std::min(CeilDiv(args.pages, kWarps), most), args.kv.num_heads);
  HeadMassKernel<kFormat, kHeadDim><<<grid, 32 * kWarps, 0, Stream(device)>>>(args);
  DUO_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

void PageMassOfHeads(Device& device, float* logs, const MassRow& row, const PagedKv& kv, int64_t pages) {
  MassArgs args = {};
  args.logs = logs;
  args.q = static_cast<const bf16*>(row.q);
  args.kv = kv;
  args.table = row.table;
  args.position = static_cast<int>(row.position);
  args.group = row.group;
  args.pages = static_cast<int>(pages);
  args.scale = kLog2e / sqrtf(static_cast<float>(kv.page.head_dim));
  VisitFormat(kv.page.format, [&](auto format) {
    if (kv.page.head_dim == 64) return Launch<format(), 64>(device, args);
    Launch<format(), 128>(device, args);
  });
}

}  // namespace duo::cuda
