// The kernels of window attention's gradient, by tensor cores (mma.sync, bf16 in, f32 sums); probabilities are
// recomputed from the scores and their lse. One kernel walks over keys for blocks of query rows and sums dq; another
// walks over query rows for blocks of keys and sums dk and dv, so that no two blocks add to the same place. All rows
// see the sinks: their rows are cut into runs with partial sums of their own, added up in order after.
#pragma once

#include "kernels/base/math.h"
#include "kernels/cuda/attention/row_tiles.cuh"
#include "kernels/cuda/attention/window_keys.cuh"
#include "kernels/cuda/primitives.cuh"

namespace duo::cuda {

constexpr int kTile = 64;     // keys of a tile in dq's kernel; keys of a block and rows of a tile in dk's
constexpr int kPart = 32;     // of those, how many have their scores in registers at once
constexpr int kRowWarps = 8;  // of dq's kernel, 16 rows each
constexpr int kKeyWarps = 4;  // of dk's kernel, 16 keys each
constexpr int kBlockRows = 16 * kRowWarps;

// What the kernels read and write.
struct WindowGradient {
  const bf16 *qkv, *dout;
  int64_t stride, dout_stride, dqkv_stride;
  bf16* dqkv;
  const float *lse, *delta;  // [q heads][rows]; delta = rowsum(dout * out)
  float* partials;           // [KV heads][sink_runs][sinks][dk, dv][head_dim]
  int rows, group, q_cols, kv_cols;
  float scale;  // 1 / sqrt(d)
  WindowKeys keys;
  int sinks, sink_blocks, sink_runs, sink_run;  // sinks within the sequence, their blocks of keys; runs and their rows
};

// One warp per (row, query head).
template <int kHeadDim>
__global__ void DeltaKernel(float* delta, const bf16* dout, int64_t dout_stride, const bf16* out, int64_t out_stride,
                            int64_t rows, int heads) {
  const int64_t item = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (item >= rows * heads) return;
  const int64_t row = item / heads, head = item % heads;
  const uint32_t* a = reinterpret_cast<const uint32_t*>(dout + row * dout_stride + head * kHeadDim);
  const uint32_t* b = reinterpret_cast<const uint32_t*>(out + row * out_stride + head * kHeadDim);
  float sum = 0;
#pragma unroll
  for (int i = lane; i < kHeadDim / 2; i += 32) {
    sum += LowBf16(a[i]) * LowBf16(b[i]) + HighBf16(a[i]) * HighBf16(b[i]);
  }
  sum = WarpSum(sum);
  if (lane == 0) delta[head * rows + row] = sum;
}

// A warp's 16 rows of query head `head`, from first_row on.
template <int kHeadDim>
__device__ __forceinline__ void StoreQueryGradients(const WindowGradient& args, const float (&dq)[kHeadDim / 8][4],
                                                    int64_t first_row, int head) {
  const int g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t row = first_row + g + 8 * h;
    if (row >= args.rows) continue;
    uint32_t* out = reinterpret_cast<uint32_t*>(args.dqkv + row * args.dqkv_stride + head * kHeadDim);
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
      out[n * 4 + c] = PackBf16(dq[n][2 * h] * args.scale, dq[n][2 * h + 1] * args.scale);
    }
  }
}

// 128 rows of a query head: dq = sum over tiles of keys of dS K / sqrt(d).
template <int kHeadDim>
__global__ void __launch_bounds__(32 * kRowWarps, 1) QueryGradientKernel(WindowGradient args) {
  constexpr int kSteps = kHeadDim / 16, kThreads = 32 * kRowWarps, kTileBytes = kTile * kHeadDim * 2;
  extern __shared__ __align__(128) uint8_t shared[];
  const uint32_t tiles = SharedAddress(shared);  // 2 x (K, V); first the rows' q and dout
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32, g = lane / 4, c = lane % 4;
  const int block_row = (gridDim.x - 1 - blockIdx.x) * kBlockRows, head = blockIdx.y;
  const auto block = args.keys.Make(head / args.group, 0);
  const int64_t low = block_row, high = min(block_row + kBlockRows, args.rows) - 1;

  static_assert(2 * kBlockRows <= 4 * kTile);
  uint32_t q[kSteps][4], dout[kSteps][4];
  LoadRows<kHeadDim, kBlockRows, kThreads>(tiles, args.qkv + head * kHeadDim, args.stride, low, args.rows);
  LoadRows<kHeadDim, kBlockRows, kThreads>(tiles + 2 * kTileBytes, args.dout + head * kHeadDim, args.dout_stride, low,
                                           args.rows);
  CopyAsyncCommit();
  CopyAsyncWait<0>();
  __syncthreads();
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    LoadLeft<kHeadDim>(q[step], tiles, w * 16, step, lane);
    LoadLeft<kHeadDim>(dout[step], tiles + 2 * kTileBytes, w * 16, step, lane);
  }
  __syncthreads();

  const KeyTiles<kTile> cut(args.keys, block, low, high);
  auto load_tile = [&](int tile) {
    int64_t first, limit;
    cut.Range(tile, first, limit);
    const uint32_t at = tiles + tile % 2 * 2 * kTileBytes;
    LoadRows<kHeadDim, kTile, kThreads>(at, block.k, args.stride, first, limit);
    LoadRows<kHeadDim, kTile, kThreads>(at + kTileBytes, block.v, args.stride, first, limit);
  };
  float lse[2], delta[2];  // of rows g and g + 8 of the warp's
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t row = min(low + w * 16 + g + 8 * h, high), at = int64_t{head} * args.rows + row;
    lse[h] = args.lse[at] * kLog2e;
    delta[h] = args.delta[at];
  }
  const float scale = args.scale * kLog2e;

  float dq[kHeadDim / 8][4] = {};
  load_tile(0);
  CopyAsyncCommit();
  for (int tile = 0; tile < cut.count; ++tile) {
    CopyAsyncWait<0>();
    __syncthreads();
    if (tile + 1 < cut.count) load_tile(tile + 1);
    CopyAsyncCommit();
    int64_t first, limit;
    cut.Range(tile, first, limit);
    const uint32_t k_tile = tiles + tile % 2 * 2 * kTileBytes, v_tile = k_tile + kTileBytes;
    const bool whole = first + kTile <= limit && args.keys.SeenByAll(block, first, first + kTile - 1, low, high);
#pragma unroll
    for (int part = 0; part < kTile; part += kPart) {
      float s[kPart / 8][4] = {}, ds[kPart / 8][4] = {};
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int n = 0; n < kPart / 16; ++n) {
          MmaTransposed<kHeadDim>(s[2 * n], s[2 * n + 1], q[step], k_tile, part + n * 16, step, lane);
          MmaTransposed<kHeadDim>(ds[2 * n], ds[2 * n + 1], dout[step], v_tile, part + n * 16, step, lane);
        }
      }
#pragma unroll
      for (int n = 0; n < kPart / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          float p = Exp2(s[n][j] * scale - lse[j / 2]);
          if (!whole) {
            const int64_t key = first + part + n * 8 + 2 * c + j % 2, row = low + w * 16 + g + 8 * (j / 2);
            if (key >= limit || !args.keys.Sees(block, row, key)) p = 0;
          }
          ds[n][j] = p * (ds[n][j] - delta[j / 2]);
        }
      }
      MmaRounded<kHeadDim>(dq, ds, k_tile, part, lane);
    }
  }
  StoreQueryGradients<kHeadDim>(args, dq, low + w * 16, head);
}

// The keys [first, limit) of a block of KeyGradientKernel, and the rows [row_begin, row_end) that see any of them.
// Blocks x: the sinks' first, (block of keys, run of rows); then the other keys.
struct KeyBlock {
  bool is_sink;
  int run = 0;  // of the sinks' rows
  int first, limit, row_begin, row_end;

  __device__ __forceinline__ explicit KeyBlock(const WindowGradient& args) {
    is_sink = static_cast<int>(blockIdx.x) < args.sink_blocks * args.sink_runs;
    if (is_sink) {
      run = blockIdx.x / args.sink_blocks;
      first = blockIdx.x % args.sink_blocks * kTile;
      limit = min(first + kTile, args.sinks);
      row_begin = max(first, run * args.sink_run);
      row_end = min(args.rows, (run + 1) * args.sink_run);
    } else {
      first = args.sinks + (blockIdx.x - args.sink_blocks * args.sink_runs) * kTile;
      limit = min(first + kTile, args.rows);
      row_begin = first;
      row_end = static_cast<int>(min(int64_t{args.rows}, int64_t{limit} + args.keys.mask.recent));
    }
    const int window = args.keys.mask.window;
    if (window > 0) row_end = static_cast<int>(min(int64_t{row_end}, int64_t{limit} - 1 + window));
  }
};

// A warp's 16 keys times kPart rows of a tile, from row `part` on: p = K Q^T, dp = V dout^T. V lies behind K, dout
// behind Q.
template <int kHeadDim>
__device__ __forceinline__ void KeyScores(float (&p)[kPart / 8][4], float (&dp)[kPart / 8][4], uint32_t key_tiles,
                                          uint32_t row_tiles, int part) {
  constexpr int kTileBytes = kTile * kHeadDim * 2;
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32;
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    uint32_t a[4];
    LoadLeft<kHeadDim>(a, key_tiles, w * 16, step, lane);
#pragma unroll
    for (int n = 0; n < kPart / 16; ++n) {
      MmaTransposed<kHeadDim>(p[2 * n], p[2 * n + 1], a, row_tiles, part + n * 16, step, lane);
    }
    LoadLeft<kHeadDim>(a, key_tiles + kTileBytes, w * 16, step, lane);
#pragma unroll
    for (int n = 0; n < kPart / 16; ++n) {
      MmaTransposed<kHeadDim>(dp[2 * n], dp[2 * n + 1], a, row_tiles + kTileBytes, part + n * 16, step, lane);
    }
  }
}

// Scores become probabilities, and the gradients of probabilities those of scores. lse, delta: of the tile's rows.
// sees(row of the tile, key of the warp) is asked where not `whole`.
template <typename Sees>
__device__ __forceinline__ void KeySoftmax(float (&p)[kPart / 8][4], float (&ds)[kPart / 8][4], const float* lse,
                                           int part, float scale, bool whole, const Sees& sees) {
  const float* delta = lse + kTile;
  const int g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
#pragma unroll
  for (int n = 0; n < kPart / 8; ++n) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int in_tile = part + n * 8 + 2 * c + j % 2;
      float probability = Exp2(p[n][j] * scale - lse[in_tile] * kLog2e);
      if (!whole && !sees(in_tile, g + 8 * (j / 2))) probability = 0;
      p[n][j] = probability;
      ds[n][j] = probability * (ds[n][j] - delta[in_tile]);
    }
  }
}

// The warp's 16 keys: the sinks' into a run's partial sums, the others' into dqkv.
template <int kHeadDim>
__device__ __forceinline__ void StoreKeyGradients(const WindowGradient& args, const KeyBlock& at,
                                                  const float (&dk)[kHeadDim / 8][4],
                                                  const float (&dv)[kHeadDim / 8][4]) {
  const int w = threadIdx.x / 32, g = threadIdx.x % 32 / 4, c = threadIdx.x % 4, kv_head = blockIdx.y;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int key = at.first + w * 16 + g + 8 * h;
    if (key >= at.limit) continue;
    if (at.is_sink) {
      float* out =
          args.partials + ((int64_t{kv_head} * args.sink_runs + at.run) * args.sinks + key) * 2 * kHeadDim + 2 * c;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        *reinterpret_cast<float2*>(out + n * 8) = {dk[n][2 * h] * args.scale, dk[n][2 * h + 1] * args.scale};
        *reinterpret_cast<float2*>(out + kHeadDim + n * 8) = {dv[n][2 * h], dv[n][2 * h + 1]};
      }
    } else {
      bf16* out = args.dqkv + int64_t{key} * args.dqkv_stride + args.q_cols + int64_t{kv_head} * kHeadDim;
      uint32_t *k_out = reinterpret_cast<uint32_t*>(out), *v_out = reinterpret_cast<uint32_t*>(out + args.kv_cols);
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        k_out[n * 4 + c] = PackBf16(dk[n][2 * h] * args.scale, dk[n][2 * h + 1] * args.scale);
        v_out[n * 4 + c] = PackBf16(dv[n][2 * h], dv[n][2 * h + 1]);
      }
    }
  }
}

// 64 keys of a KV head: dk = sum over tiles of rows, of all query heads of the group, of dS^T q / sqrt(d), dv = that of
// P^T dout.
template <int kHeadDim>
__global__ void __launch_bounds__(32 * kKeyWarps, 2) KeyGradientKernel(WindowGradient args) {
  constexpr int kThreads = 32 * kKeyWarps, kTileBytes = kTile * kHeadDim * 2;
  extern __shared__ __align__(128) uint8_t shared[];
  const uint32_t k_tile = SharedAddress(shared), v_tile = k_tile + kTileBytes, row_tiles = v_tile + kTileBytes;
  float* row_values = reinterpret_cast<float*>(shared + 6 * kTileBytes);  // 2 x (lse, delta) of a tile's rows
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32, kv_head = blockIdx.y;
  const auto block = args.keys.Make(kv_head, 0);
  const KeyBlock at(args);
  const int head_tiles = CeilDiv(max(0, at.row_end - at.row_begin), kTile), all_tiles = head_tiles * args.group;

  auto load_tile = [&](int tile) {
    const int head = kv_head * args.group + tile / head_tiles, row = at.row_begin + tile % head_tiles * kTile;
    const uint32_t to = row_tiles + tile % 2 * 2 * kTileBytes;
    LoadRows<kHeadDim, kTile, kThreads>(to, args.qkv + head * kHeadDim, args.stride, row, at.row_end);
    LoadRows<kHeadDim, kTile, kThreads>(to + kTileBytes, args.dout + head * kHeadDim, args.dout_stride, row,
                                        at.row_end);
    static_assert(kThreads == 2 * kTile);
    const int i = threadIdx.x % kTile;
    const float* values = threadIdx.x < kTile ? args.lse : args.delta;
    row_values[tile % 2 * 2 * kTile + threadIdx.x] = values[int64_t{head} * args.rows + min(row + i, at.row_end - 1)];
  };
  LoadRows<kHeadDim, kTile, kThreads>(k_tile, block.k, args.stride, at.first, at.limit);
  LoadRows<kHeadDim, kTile, kThreads>(v_tile, block.v, args.stride, at.first, at.limit);
  if (all_tiles > 0) load_tile(0);
  CopyAsyncCommit();

  const float scale = args.scale * kLog2e;
  float dk[kHeadDim / 8][4] = {}, dv[kHeadDim / 8][4] = {};
  for (int tile = 0; tile < all_tiles; ++tile) {
    CopyAsyncWait<0>();
    __syncthreads();
    if (tile + 1 < all_tiles) load_tile(tile + 1);
    CopyAsyncCommit();
    const uint32_t q_tile = row_tiles + tile % 2 * 2 * kTileBytes, dout_tile = q_tile + kTileBytes;
    const int row = at.row_begin + tile % head_tiles * kTile;
    const bool whole = at.first + kTile <= at.limit && row + kTile <= at.row_end &&
                       args.keys.SeenByAll(block, at.first, at.first + kTile - 1, row, row + kTile - 1);
    auto sees = [&](int in_tile, int in_warp) {
      const int key = at.first + w * 16 + in_warp;
      return key < at.limit && row + in_tile < at.row_end && args.keys.Sees(block, row + in_tile, key);
    };
#pragma unroll
    for (int part = 0; part < kTile; part += kPart) {
      float p[kPart / 8][4] = {}, ds[kPart / 8][4] = {};
      KeyScores<kHeadDim>(p, ds, k_tile, q_tile, part);
      KeySoftmax(p, ds, row_values + tile % 2 * 2 * kTile, part, scale, whole, sees);
      MmaRounded<kHeadDim>(dv, p, dout_tile, part, lane);
      MmaRounded<kHeadDim>(dk, ds, q_tile, part, lane);
    }
  }
  StoreKeyGradients<kHeadDim>(args, at, dk, dv);
}

// One block per (sink, KV head), one thread per element of dk and dv.
template <int kHeadDim>
__global__ void SinkSumKernel(WindowGradient args) {
  const int key = blockIdx.x, kv_head = blockIdx.y, i = threadIdx.x;
  float sum = 0;
  for (int run = key / args.sink_run; run < args.sink_runs; ++run) {  // rows before the key do not see it
    sum += args.partials[((int64_t{kv_head} * args.sink_runs + run) * args.sinks + key) * 2 * kHeadDim + i];
  }
  bf16* out = args.dqkv + int64_t{key} * args.dqkv_stride + args.q_cols + int64_t{kv_head} * kHeadDim;
  out[i < kHeadDim ? i : args.kv_cols + i - kHeadDim] = ToBf16(sum);
}

}  // namespace duo::cuda
