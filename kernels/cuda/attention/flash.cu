// A block takes 128 rows of one query head, a warp 16 of them; keys pass through shared memory 64 at a time, double
// buffered by cp.async. Rows of K and V in shared memory are swizzled by 16-byte pieces, so that ldmatrix meets no bank
// twice. Softmax is online, sums in f32.
#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/cuda/attention/flash.h"
#include "kernels/cuda/attention/row_tiles.cuh"
#include "kernels/cuda/attention/streaming_keys.cuh"
#include "kernels/cuda/attention/window_keys.cuh"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps, kRows = 16 * kWarps, kKeys = 64;

// Keys in plain memory.
struct DenseKeys {
  DenseAttention a;

  struct Block {
    const bf16 *k, *v;
    int64_t stride, keys, first_position;
  };
  __device__ Block Make(int head, int) const {
    return {a.k + head * a.head_stride, a.v + head * a.head_stride, a.token_stride, a.keys, a.first_position};
  }
  __device__ const bf16* K(const Block& b, int64_t j) const { return b.k + j * b.stride; }
  __device__ const bf16* V(const Block& b, int64_t j) const { return b.v + j * b.stride; }
  __device__ int64_t Position(int64_t j) const {
    if (a.slots == 1) return a.first_key + j;
    PagedKv map = {};
    map.slots = a.slots, map.first_slot = a.first_slot, map.num_slots = a.num_slots;
    const int64_t token = a.first_key + j;
    return map.held(token / kPageTokens) * kPageTokens + token % kPageTokens;
  }
  // Two ranges of keys hold all that rows at positions [low, high] may see.
  __device__ void Ranges(const Block& b, int64_t low, int64_t high, int64_t (&begin)[2], int64_t (&end)[2]) const {
    begin[0] = end[0] = begin[1] = 0;
    end[1] = b.keys;
    if (a.slots == 1) {
      end[1] = min(b.keys, high + 1 - a.first_key);
      if (a.window > 0) begin[1] = max(int64_t{0}, low - a.window + 1 - a.first_key);
      if (!a.part.all()) {
        end[1] = max(int64_t{0}, min(end[1], a.part.Keys(high).end - a.first_key));
        begin[1] = min(max(begin[1], a.part.Keys(low).begin - a.first_key), end[1]);
      }
    }
  }
  __device__ bool SeenByAll(const Block&, int64_t first, int64_t last, int64_t low, int64_t high) const {
    return Position(last) <= low && (a.window == 0 || high - Position(first) < a.window) &&
           SeenByAllOfPart(a.part, Position(first), Position(last), low, high);
  }
  __device__ bool Sees(const Block&, int64_t position, int64_t j) const {
    const int64_t key = Position(j);
    return key <= position && (a.window == 0 || position - key < a.window) && SeenOfPart(a.part, position, key);
  }
};

struct FlashRows {
  const bf16* q;
  int64_t q_stride, q_head_stride;
  bf16* out;
  int64_t out_stride, out_head_stride;
  float* lse;
  int64_t lse_stride;
  int splits;  // dense calls: grid z
  int64_t out_split_stride, lse_split_stride;
  int rows;  // of a dense call; streaming reads spans
  int64_t first_position;
  int group;
  float scale;  // 1 / sqrt(d) * log2 e
};

// What a warp knows of its 16 rows after some tiles of keys: the running sums of softmax, of rows g and g + 8.
template <int kHeadDim>
struct RowSums {
  float o[kHeadDim / 8][4] = {};
  float top[2] = {-1e30f, -1e30f}, sum[2] = {0, 0};

  // Scores of a tile become weights relative to the raised maximum; what was summed is scaled down to it.
  __device__ __forceinline__ void Raise(float (&s)[kKeys / 8][4], float scale) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float highest = -INFINITY;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) highest = fmaxf(highest, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2)) * scale;
      const float raised = fmaxf(top[h], highest), factor = Exp2(top[h] - raised);
      top[h] = raised;
      float add = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int j = 2 * h; j < 2 * h + 2; ++j) {
          s[n][j] = Exp2(s[n][j] * scale - raised);
          add += s[n][j];
        }
      }
      sum[h] = sum[h] * factor + add;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) o[n][2 * h] *= factor, o[n][2 * h + 1] *= factor;
    }
  }

  // The warp's rows of query head `head`, from step row `first_row` on; those from `limit` on are not there.
  __device__ __forceinline__ void Store(const FlashRows& r, int head, int first_row, int limit) {
    const int g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
      sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
      const int row = first_row + g + 8 * h;
      if (row >= limit) continue;
      const float inverse = sum[h] > 0 ? 1.0f / sum[h] : 0.0f;
      uint32_t* out = reinterpret_cast<uint32_t*>(r.out + int64_t{row} * r.out_stride + head * r.out_head_stride);
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) {
        out[n * 4 + c] = PackBf16(o[n][2 * h] * inverse, o[n][2 * h + 1] * inverse);
      }
      if (r.lse != nullptr && c == 0) {
        r.lse[head * r.lse_stride + row] = sum[h] > 0 ? (top[h] + log2f(sum[h])) * kLn2 : -INFINITY;
      }
    }
  }
};

// A tile of K and V on its way to shared memory, V behind K.
template <int kHeadDim, typename Keys>
__device__ __forceinline__ void LoadKeys(uint32_t tile, const Keys& keys, const typename Keys::Block& block,
                                         int64_t first, int64_t limit) {
  constexpr int kPieces = kHeadDim / 8;
#pragma unroll
  for (int i = threadIdx.x; i < kKeys * kPieces; i += kThreads) {
    const int row = i / kPieces, piece = i % kPieces;
    const bool valid = first + row < limit;
    const int64_t j = valid ? first + row : first;
    CopyAsync16(Swizzled<kHeadDim>(tile, row, piece), keys.K(block, j) + piece * 8, valid);
    CopyAsync16(Swizzled<kHeadDim>(tile + kKeys * kHeadDim * 2, row, piece), keys.V(block, j) + piece * 8, valid);
  }
}

// Scores that the warp's rows, the first of them at `position`, must not see.
template <typename Keys>
__device__ __forceinline__ void Hide(float (&s)[kKeys / 8][4], const Keys& keys, const typename Keys::Block& block,
                                     int64_t position, int64_t first, int64_t limit) {
  const int g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
#pragma unroll
  for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t key = first + n * 8 + 2 * c + j % 2;
      if (key >= limit || !keys.Sees(block, position + g + 8 * (j / 2), key)) s[n][j] = -INFINITY;
    }
  }
}

template <int kHeadDim, typename Keys>
__global__ void __launch_bounds__(kThreads, 1) FlashKernel(FlashRows r, Keys keys) {
  constexpr int kSteps = kHeadDim / 16, kTileBytes = kKeys * kHeadDim * 2;
  constexpr bool kStreaming = std::is_same<Keys, StreamingKeys>::value;
  extern __shared__ __align__(128) uint8_t shared[];
  const uint32_t q_tile = SharedAddress(shared), kv_tiles = q_tile + kRows * kHeadDim * 2;  // 2 x (K, V)
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32;
  int rows = r.rows, first_row = 0;
  int64_t first_position = r.first_position;
  if constexpr (kStreaming) {
    const SeqSpan span = keys.batch.spans[blockIdx.z];
    rows = span.num_rows, first_row = span.first_row, first_position = span.history;
  }
  // The blocks with most keys first: the causal ones at the end of the rows.
  const int block_row = (gridDim.x - 1 - blockIdx.x) * kRows;
  if (block_row >= rows) return;
  const int head = blockIdx.y;
  const auto block = keys.Make(head / r.group, blockIdx.z);
  const int last_row = min(block_row + kRows, rows) - 1;
  const int64_t low = first_position + block_row, high = first_position + last_row;
  const KeyTiles<kKeys> cut(keys, block, low, high);
  int first_tile = 0, tiles = cut.count;  // of this block: [first_tile, tiles)
  if constexpr (!kStreaming) {
    first_tile = static_cast<int>(int64_t{cut.count} * blockIdx.z / r.splits);
    tiles = static_cast<int>(int64_t{cut.count} * (blockIdx.z + 1) / r.splits);
    r.out += blockIdx.z * r.out_split_stride;
    if (r.lse != nullptr) r.lse += blockIdx.z * r.lse_split_stride;
  }
  auto load_tile = [&](int tile) {
    int64_t first, limit;
    cut.Range(tile, first, limit);
    LoadKeys<kHeadDim>(kv_tiles + tile % 2 * (2 * kTileBytes), keys, block, first, limit);
  };
  const bf16* q = r.q + int64_t{first_row + block_row} * r.q_stride + head * r.q_head_stride;
  LoadRows<kHeadDim, kRows, kThreads>(q_tile, q, r.q_stride, 0, rows - block_row);
  if (tiles > first_tile) load_tile(first_tile);
  CopyAsyncCommit();

  RowSums<kHeadDim> sums;
  uint32_t q_fragments[kSteps][4];
  for (int tile = first_tile; tile < tiles; ++tile) {
    CopyAsyncWait<0>();
    __syncthreads();
    if (tile + 1 < tiles) load_tile(tile + 1);
    CopyAsyncCommit();
    if (tile == first_tile) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) LoadLeft<kHeadDim>(q_fragments[step], q_tile, w * 16, step, lane);
    }
    int64_t first, limit;
    cut.Range(tile, first, limit);
    const uint32_t k_tile = kv_tiles + tile % 2 * (2 * kTileBytes), v_tile = k_tile + kTileBytes;
    float s[kKeys / 8][4] = {};
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        MmaTransposed<kHeadDim>(s[2 * n], s[2 * n + 1], q_fragments[step], k_tile, n * 16, step, lane);
      }
    }
    const int64_t final_key = min(first + kKeys, limit) - 1;
    if (first + kKeys > limit || !keys.SeenByAll(block, first, final_key, low, high)) {
      Hide(s, keys, block, low + w * 16, first, limit);
    }
    sums.Raise(s, r.scale);
    MmaRounded<kHeadDim>(sums.o, s, v_tile, 0, lane);
  }
  sums.Store(r, head, first_row + block_row + w * 16, first_row + rows);
}

template <int kHeadDim, typename Keys>
void LaunchHead(Device& device, dim3 grid, const FlashRows& rows, const Keys& keys) {
  constexpr int kShared = (kRows + 4 * kKeys) * kHeadDim * 2;
  const auto kernel = FlashKernel<kHeadDim, Keys>;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  kernel<<<grid, kThreads, kShared, Stream(device)>>>(rows, keys);
  DUO_CUDA_CHECK(cudaGetLastError());
}

// Blocks of rows and query heads; z: runs of keys, or sequences.
template <typename Keys>
void Launch(Device& device, int head_dim, dim3 grid, FlashRows rows, const Keys& keys) {
  rows.scale = kLog2e / sqrtf(static_cast<float>(head_dim));
  if (head_dim == 64) return LaunchHead<64>(device, grid, rows, keys);
  LaunchHead<128>(device, grid, rows, keys);
}

}  // namespace

void FlashDense(Device& device, const DenseAttention& a) {
  FlashRows rows = {};
  rows.q = a.q;
  rows.q_stride = a.q_stride;
  rows.q_head_stride = a.q_head_stride;
  rows.out = a.out;
  rows.out_stride = a.out_stride;
  rows.out_head_stride = a.out_head_stride;
  rows.lse = a.lse;
  rows.lse_stride = a.lse_stride;
  rows.splits = a.splits;
  rows.out_split_stride = a.out_split_stride;
  rows.lse_split_stride = a.lse_split_stride;
  rows.rows = a.rows;
  rows.first_position = a.first_position;
  rows.group = a.group;
  const dim3 grid(CeilDiv(a.rows, kRows), a.heads * a.group, a.splits);
  Launch(device, a.head_dim, grid, rows, DenseKeys{a});
}

void FlashStreaming(Device& device, const Partial& to, const StepRows& step, const RingKv& kv) {
  const View &out = to.out, &qkv = step.qkv;
  const HeadShape& shape = step.shape;
  const SeqBatch& batch = step.batch;
  const int64_t first = int64_t{kv.first_head} * shape.head_dim;
  const View& queries = step.part.q.data == nullptr ? qkv : step.part.q;
  FlashRows rows = {};
  rows.q = queries.as<bf16>() + first * shape.group;
  rows.q_stride = queries.stride;
  rows.q_head_stride = rows.out_head_stride = shape.head_dim;
  rows.out = out.as<bf16>() + first * shape.group;
  rows.out_stride = out.stride;
  rows.lse = to.lse;
  rows.lse_stride = batch.num_rows;
  rows.group = shape.group;
  const StreamingKeys keys = {
      qkv.as<bf16>() + shape.q_cols() + first, shape.kv_cols(), qkv.stride, batch, kv, step.part};
  const dim3 grid(CeilDiv(batch.max_rows, kRows), kv.num_heads * shape.group, batch.num_seqs);
  Launch(device, shape.head_dim, grid, rows, keys);
}

void FlashWindow(Device& device, const Partial& to, const WindowRows& window) {
  const View &out = to.out, &qkv = window.qkv;
  const HeadShape& shape = window.shape;
  FlashRows rows = {};
  rows.q = qkv.as<bf16>();
  rows.q_stride = qkv.stride;
  rows.q_head_stride = rows.out_head_stride = shape.head_dim;
  rows.out = out.as<bf16>();
  rows.out_stride = out.stride;
  rows.lse = to.lse;
  rows.lse_stride = out.rows;
  rows.splits = 1;
  rows.rows = static_cast<int>(out.rows);
  rows.group = shape.group;
  const WindowKeys keys = {qkv.as<bf16>() + shape.q_cols(), shape.kv_cols(), qkv.stride, shape.head_dim, window.mask};
  const dim3 grid(CeilDiv(rows.rows, kRows), shape.kv_heads * shape.group);
  Launch(device, shape.head_dim, grid, rows, keys);
}

}  // namespace duo::cuda
