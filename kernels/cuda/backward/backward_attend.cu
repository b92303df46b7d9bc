// The gradient of window attention by tensor cores (mma.sync, bf16 in, f32 sums), recomputing the probabilities from
// the scores and their lse. One kernel walks over keys for blocks of query rows and sums dq; another walks over query
// rows for blocks of keys and sums dk and dv, so that no two blocks add to the same place. All rows see the sinks:
// their rows are cut into runs with partial sums of their own, added up in order after. Gradients are the same bits in
// every run.
#include <algorithm>

#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/cuda/attention/flash.h"
#include "kernels/cuda/attention/window_keys.cuh"
#include "kernels/cuda/backward/backward_tile.cuh"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kTile = 64;     // keys of a tile in dq's kernel; keys of a block and rows of a tile in dk's
constexpr int kPart = 32;     // of those, how many have their scores in registers at once
constexpr int kRowWarps = 8;  // of dq's kernel, 16 rows each
constexpr int kKeyWarps = 4;  // of dk's kernel, 16 keys each
constexpr int kBlockRows = 16 * kRowWarps;
constexpr int64_t kSinkRun = 1024;  // rows of a run of the sinks' partial sums, at least
constexpr int64_t kSinkRuns = 32;   // runs, at most

struct Args {
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

// 128 rows of a query head: dq = sum over tiles of keys of dS K / sqrt(d).
template <int kHeadDim>
__global__ void __launch_bounds__(32 * kRowWarps, 1) QueryGradientKernel(Args args) {
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

  int64_t begin[2], end[2];
  args.keys.Ranges(block, low, high, begin, end);
  const int tiles0 = static_cast<int>(CeilDiv(end[0] - begin[0], kTile));
  const int all_tiles = tiles0 + static_cast<int>(CeilDiv(end[1] - begin[1], kTile));
  auto tile_range = [&](int tile, int64_t& first, int64_t& limit) {
    const int range = tile >= tiles0;
    first = begin[range] + int64_t{tile - (range ? tiles0 : 0)} * kTile;
    limit = end[range];
  };
  auto load_tile = [&](int tile) {
    int64_t first, limit;
    tile_range(tile, first, limit);
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
  for (int tile = 0; tile < all_tiles; ++tile) {
    CopyAsyncWait<0>();
    __syncthreads();
    if (tile + 1 < all_tiles) load_tile(tile + 1);
    CopyAsyncCommit();
    int64_t first, limit;
    tile_range(tile, first, limit);
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
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int64_t row = low + w * 16 + g + 8 * h;
    if (row >= args.rows) continue;
    uint32_t* out = reinterpret_cast<uint32_t*>(args.dqkv + row * args.dqkv_stride + head * kHeadDim);
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
      out[n * 4 + c] = PackBf16(dq[n][2 * h] * args.scale, dq[n][2 * h + 1] * args.scale);
    }
  }
}

// 64 keys of a KV head: dk = sum over tiles of rows, of all query heads of the group, of dS^T q / sqrt(d), dv = that of
// P^T dout. Blocks x: the sinks' first, (block of keys, run of rows); then the other keys.
template <int kHeadDim>
__global__ void __launch_bounds__(32 * kKeyWarps, 2) KeyGradientKernel(Args args) {
  constexpr int kSteps = kHeadDim / 16, kThreads = 32 * kKeyWarps, kTileBytes = kTile * kHeadDim * 2;
  extern __shared__ __align__(128) uint8_t shared[];
  const uint32_t k_tile = SharedAddress(shared), v_tile = k_tile + kTileBytes, row_tiles = v_tile + kTileBytes;
  float* row_values = reinterpret_cast<float*>(shared + 6 * kTileBytes);  // 2 x (lse, delta) of a tile's rows
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32, g = lane / 4, c = lane % 4;
  const int kv_head = blockIdx.y;
  const auto block = args.keys.Make(kv_head, 0);
  const WindowMask& mask = args.keys.mask;

  const bool is_sink = static_cast<int>(blockIdx.x) < args.sink_blocks * args.sink_runs;
  int first, limit, row_begin, row_end, run = 0;
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
    row_end = static_cast<int>(min(int64_t{args.rows}, int64_t{limit} + mask.recent));
  }
  if (mask.window > 0) row_end = static_cast<int>(min(int64_t{row_end}, int64_t{limit} - 1 + mask.window));
  const int head_tiles = CeilDiv(max(0, row_end - row_begin), kTile), all_tiles = head_tiles * args.group;

  auto load_tile = [&](int tile) {
    const int head = kv_head * args.group + tile / head_tiles, row = row_begin + tile % head_tiles * kTile;
    const uint32_t at = row_tiles + tile % 2 * 2 * kTileBytes;
    LoadRows<kHeadDim, kTile, kThreads>(at, args.qkv + head * kHeadDim, args.stride, row, row_end);
    LoadRows<kHeadDim, kTile, kThreads>(at + kTileBytes, args.dout + head * kHeadDim, args.dout_stride, row, row_end);
    static_assert(kThreads == 2 * kTile);
    const int i = threadIdx.x % kTile;
    const float* values = threadIdx.x < kTile ? args.lse : args.delta;
    row_values[tile % 2 * 2 * kTile + threadIdx.x] = values[int64_t{head} * args.rows + min(row + i, row_end - 1)];
  };
  LoadRows<kHeadDim, kTile, kThreads>(k_tile, block.k, args.stride, first, limit);
  LoadRows<kHeadDim, kTile, kThreads>(v_tile, block.v, args.stride, first, limit);
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
    const float* lse = row_values + tile % 2 * 2 * kTile;
    const float* delta = lse + kTile;
    const int row = row_begin + tile % head_tiles * kTile;
    const bool whole = first + kTile <= limit && row + kTile <= row_end &&
                       args.keys.SeenByAll(block, first, first + kTile - 1, row, row + kTile - 1);
#pragma unroll
    for (int part = 0; part < kTile; part += kPart) {
      float p[kPart / 8][4] = {}, ds[kPart / 8][4] = {};
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        uint32_t a[4];
        LoadLeft<kHeadDim>(a, k_tile, w * 16, step, lane);
#pragma unroll
        for (int n = 0; n < kPart / 16; ++n) {
          MmaTransposed<kHeadDim>(p[2 * n], p[2 * n + 1], a, q_tile, part + n * 16, step, lane);
        }
        LoadLeft<kHeadDim>(a, v_tile, w * 16, step, lane);
#pragma unroll
        for (int n = 0; n < kPart / 16; ++n) {
          MmaTransposed<kHeadDim>(ds[2 * n], ds[2 * n + 1], a, dout_tile, part + n * 16, step, lane);
        }
      }
#pragma unroll
      for (int n = 0; n < kPart / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int in_tile = part + n * 8 + 2 * c + j % 2;
          float probability = Exp2(p[n][j] * scale - lse[in_tile] * kLog2e);
          if (!whole) {
            const int key = first + w * 16 + g + 8 * (j / 2);
            const bool inside = key < limit && row + in_tile < row_end;
            if (!inside || !args.keys.Sees(block, row + in_tile, key)) probability = 0;
          }
          p[n][j] = probability;
          ds[n][j] = probability * (ds[n][j] - delta[in_tile]);
        }
      }
      MmaRounded<kHeadDim>(dv, p, dout_tile, part, lane);
      MmaRounded<kHeadDim>(dk, ds, q_tile, part, lane);
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int key = first + w * 16 + g + 8 * h;
    if (key >= limit) continue;
    if (is_sink) {
      float* out =
          args.partials + ((int64_t{kv_head} * args.sink_runs + run) * args.sinks + key) * 2 * kHeadDim + 2 * c;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        *reinterpret_cast<float2*>(out + n * 8) = {dk[n][2 * h] * args.scale, dk[n][2 * h + 1] * args.scale};
        *reinterpret_cast<float2*>(out + kHeadDim + n * 8) = {dv[n][2 * h], dv[n][2 * h + 1]};
      }
    } else {
      bf16* at = args.dqkv + int64_t{key} * args.dqkv_stride + args.q_cols + int64_t{kv_head} * kHeadDim;
      uint32_t *k_out = reinterpret_cast<uint32_t*>(at), *v_out = reinterpret_cast<uint32_t*>(at + args.kv_cols);
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        k_out[n * 4 + c] = PackBf16(dk[n][2 * h] * args.scale, dk[n][2 * h + 1] * args.scale);
        v_out[n * 4 + c] = PackBf16(dv[n][2 * h], dv[n][2 * h + 1]);
      }
    }
  }
}

// One block per (sink, KV head), one thread per element of dk and dv.
template <int kHeadDim>
__global__ void SinkSumKernel(Args args) {
  const int key = blockIdx.x, kv_head = blockIdx.y, i = threadIdx.x;
  float sum = 0;
  for (int run = key / args.sink_run; run < args.sink_runs; ++run) {  // rows before the key do not see it
    sum += args.partials[((int64_t{kv_head} * args.sink_runs + run) * args.sinks + key) * 2 * kHeadDim + i];
  }
  bf16* out = args.dqkv + int64_t{key} * args.dqkv_stride + args.q_cols + int64_t{kv_head} * kHeadDim;
  out[i < kHeadDim ? i : args.kv_cols + i - kHeadDim] = ToBf16(sum);
}

int64_t SinkRunRows(int64_t rows) { return std::max(kSinkRun, RoundUp(CeilDiv(rows, kSinkRuns), kTile)); }

template <int kHeadDim>
void Launch(Device& device, const Args& args, int kv_heads, const View& dout, const View& out, float* delta) {
  const cudaStream_t stream = Stream(device);
  const int heads = kv_heads * args.group;
  DeltaKernel<kHeadDim><<<static_cast<unsigned>(CeilDiv(int64_t{args.rows} * heads, 8)), 256, 0, stream>>>(
      delta, dout.as<bf16>(), dout.stride, out.as<bf16>(), out.stride, args.rows, heads);
  DUO_CUDA_CHECK(cudaGetLastError());

  constexpr int kTileBytes = kTile * kHeadDim * 2;
  const auto query_kernel = QueryGradientKernel<kHeadDim>;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(query_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 4 * kTileBytes));
  query_kernel<<<dim3(static_cast<unsigned>(CeilDiv(args.rows, kBlockRows)), heads), 32 * kRowWarps, 4 * kTileBytes,
                 stream>>>(args);
  DUO_CUDA_CHECK(cudaGetLastError());

  constexpr int kKeyShared = 6 * kTileBytes + 4 * kTile * sizeof(float);
  const auto key_kernel = KeyGradientKernel<kHeadDim>;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(key_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kKeyShared));
  const int64_t blocks = args.sink_blocks * args.sink_runs + CeilDiv(args.rows - args.sinks, kTile);
  key_kernel<<<dim3(static_cast<unsigned>(blocks), kv_heads), 32 * kKeyWarps, kKeyShared, stream>>>(args);
  DUO_CUDA_CHECK(cudaGetLastError());
  if (args.sinks == 0) return;
  SinkSumKernel<kHeadDim><<<dim3(args.sinks, kv_heads), 2 * kHeadDim, 0, stream>>>(args);
  DUO_CUDA_CHECK(cudaGetLastError());
}

void CheckAligned(const View& v) {
  DUO_CHECK_EQ(reinterpret_cast<uintptr_t>(v.data) % 16, uintptr_t{0});
  DUO_CHECK_EQ(v.stride % 8, 0);
}

size_t DeltaBytes(int64_t rows, const HeadShape& shape) {
  return Arena::Rounded(rows * shape.kv_heads * shape.group * sizeof(float));
}
size_t PartialBytes(int64_t rows, const HeadShape& shape, const WindowMask& mask) {
  const int64_t sinks = std::min<int64_t>(mask.sink, rows), runs = CeilDiv(rows, SinkRunRows(rows));
  return Arena::Rounded(runs * sinks * 2 * shape.kv_cols() * sizeof(float));
}

}  // namespace

absl::Status CheckBackward(const Device& device, int head_dim, int group) {
  return cuda::CheckAttention(device, head_dim, group, KvFormat::kBF16);
}

size_t AttendWindowScratchBytes(const Device&, int64_t, const HeadShape&) { return 0; }

void AttendWindow(Device& device, View out, float* lse, View qkv, const HeadShape& shape, const WindowMask& mask,
                  Arena&) {
  for (const View& v : {out, qkv}) CheckAligned(v);
  FlashWindow(device, out, lse, qkv, shape, mask);
}

size_t AttendWindowBackwardScratchBytes(const Device&, int64_t rows, const HeadShape& shape, const WindowMask& mask) {
  return DeltaBytes(rows, shape) + PartialBytes(rows, shape, mask);
}

void AttendWindowBackward(Device& device, View dqkv, View dout, View out, const float* lse, View qkv,
                          const HeadShape& shape, const WindowMask& mask, Arena& scratch) {
  for (const View& v : {dqkv, dout, out, qkv}) CheckAligned(v);
  const size_t mark = scratch.used();
  const int64_t rows = qkv.rows;
  float* delta = static_cast<float*>(scratch.Take(DeltaBytes(rows, shape)));
  Args args = {};
  args.qkv = qkv.as<bf16>();
  args.dout = dout.as<bf16>();
  args.dqkv = dqkv.as<bf16>();
  args.stride = qkv.stride;
  args.dout_stride = dout.stride;
  args.dqkv_stride = dqkv.stride;
  args.lse = lse;
  args.delta = delta;
  args.partials = static_cast<float*>(scratch.Take(PartialBytes(rows, shape, mask)));
  args.rows = static_cast<int>(rows);
  args.group = shape.group;
  args.q_cols = shape.q_cols();
  args.kv_cols = shape.kv_cols();
  args.scale = 1.0f / sqrtf(static_cast<float>(shape.head_dim));
  args.keys = {args.qkv + shape.q_cols(), shape.kv_cols(), qkv.stride, shape.head_dim, mask};
  args.sinks = static_cast<int>(std::min<int64_t>(mask.sink, rows));
  args.sink_blocks = static_cast<int>(CeilDiv(args.sinks, kTile));
  args.sink_run = static_cast<int>(SinkRunRows(rows));
  args.sink_runs = static_cast<int>(CeilDiv(rows, args.sink_run));
  if (shape.head_dim == 64) {
    Launch<64>(device, args, shape.kv_heads, dout, out, delta);
  } else {
    Launch<128>(device, args, shape.kv_heads, dout, out, delta);
  }
  scratch.Rewind(mark);
}

}  // namespace duo::cuda
