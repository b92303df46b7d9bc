// A block takes 128 rows of one query head, a warp 16 of them; keys pass through shared memory 64 at a time, double
// buffered by cp.async. Rows of K and V in shared memory are swizzled by 16-byte pieces, so that ldmatrix meets no bank
// twice. Softmax is online, sums in f32.
#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/cuda/attention/flash.h"
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
    }
  }
  __device__ bool SeenByAll(const Block&, int64_t first, int64_t last, int64_t low, int64_t high) const {
    return Position(last) <= low && (a.window == 0 || high - Position(first) < a.window);
  }
  __device__ bool Sees(const Block&, int64_t position, int64_t j) const {
    const int64_t key = Position(j);
    return key <= position && (a.window == 0 || position - key < a.window);
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

template <int kHeadDim, typename Keys>
__global__ void __launch_bounds__(kThreads, 1) FlashKernel(FlashRows r, Keys keys) {
  constexpr int kPieces = kHeadDim / 8, kSteps = kHeadDim / 16;
  constexpr int kTileBytes = kKeys * kHeadDim * 2;
  constexpr bool kStreaming = std::is_same<Keys, StreamingKeys>::value;
  extern __shared__ __align__(128) uint8_t shared[];
  const uint32_t q_tile = SharedAddress(shared), kv_tiles = q_tile + kRows * kHeadDim * 2;  // 2 x (K, V)
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32, g = lane / 4, c = lane % 4;
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
  int64_t begin[2], end[2];
  keys.Ranges(block, low, high, begin, end);
  const int tiles0 = static_cast<int>(CeilDiv(end[0] - begin[0], kKeys));
  const int all_tiles = tiles0 + static_cast<int>(CeilDiv(max(int64_t{0}, end[1] - begin[1]), kKeys));
  int first_tile = 0, tiles = all_tiles;  // of this block: [first_tile, tiles)
  if constexpr (!kStreaming) {
    first_tile = static_cast<int>(int64_t{all_tiles} * blockIdx.z / r.splits);
    tiles = static_cast<int>(int64_t{all_tiles} * (blockIdx.z + 1) / r.splits);
    r.out += blockIdx.z * r.out_split_stride;
    if (r.lse != nullptr) r.lse += blockIdx.z * r.lse_split_stride;
  }
  auto tile_range = [&](int tile, int64_t& first, int64_t& limit) {
    const int range = tile >= tiles0;
    first = begin[range] + int64_t{tile - (range ? tiles0 : 0)} * kKeys;
    limit = end[range];
  };
  auto load_tile = [&](int tile) {
    int64_t first, limit;
    tile_range(tile, first, limit);
    const uint32_t k_tile = kv_tiles + tile % 2 * (2 * kTileBytes), v_tile = k_tile + kTileBytes;
#pragma unroll
    for (int i = threadIdx.x; i < kKeys * kPieces; i += kThreads) {
      const int row = i / kPieces, piece = i % kPieces;
      const bool valid = first + row < limit;
      const int64_t j = valid ? first + row : first;
      CopyAsync16(Swizzled<kHeadDim>(k_tile, row, piece), keys.K(block, j) + piece * 8, valid);
      CopyAsync16(Swizzled<kHeadDim>(v_tile, row, piece), keys.V(block, j) + piece * 8, valid);
    }
  };
  const bf16* q = r.q + int64_t{first_row + block_row} * r.q_stride + head * r.q_head_stride;
  for (int i = threadIdx.x; i < kRows * kPieces; i += kThreads) {
    const int row = i / kPieces, piece = i % kPieces;
    const bool valid = block_row + row < rows;
    CopyAsync16(Swizzled<kHeadDim>(q_tile, row, piece), q + (valid ? row : 0) * r.q_stride + piece * 8, valid);
  }
  if (tiles > first_tile) load_tile(first_tile);
  CopyAsyncCommit();

  float o[kHeadDim / 8][4] = {};
  float top[2] = {-1e30f, -1e30f}, sum[2] = {0, 0};
  uint32_t q_fragments[kSteps][4];
  for (int tile = first_tile; tile < tiles; ++tile) {
    CopyAsyncWait<0>();
    __syncthreads();
    if (tile + 1 < tiles) load_tile(tile + 1);
    CopyAsyncCommit();
    if (tile == first_tile) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        LoadMatrix4(q_fragments[step], Swizzled<kHeadDim>(q_tile, w * 16 + (lane & 15), step * 2 + (lane >> 4)));
      }
    }
    int64_t first, limit;
    tile_range(tile, first, limit);
    const uint32_t k_tile = kv_tiles + tile % 2 * (2 * kTileBytes), v_tile = k_tile + kTileBytes;

    float s[kKeys / 8][4];
#pragma unroll
    for (int n = 0; n < kKeys / 8; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        uint32_t b[4];
        LoadMatrix4(b, Swizzled<kHeadDim>(k_tile, n * 16 + (lane & 7) + (lane >> 4) * 8, step * 2 + ((lane >> 3) & 1)));
        const uint32_t(&a)[4] = q_fragments[step];
        Mma(s[2 * n], a[0], a[1], a[2], a[3], b[0], b[1]);
        Mma(s[2 * n + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
      }
    }
    const int64_t final_key = min(first + kKeys, limit) - 1;
    if (first + kKeys > limit || !keys.SeenByAll(block, first, final_key, low, high)) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int64_t key = first + n * 8 + 2 * c + j % 2;
          const int64_t position = low + w * 16 + g + 8 * (j / 2);
          if (key >= limit || !keys.Sees(block, position, key)) s[n][j] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float highest = -INFINITY;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) highest = fmaxf(highest, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2)) * r.scale;
      const float raised = fmaxf(top[h], highest), factor = Exp2(top[h] - raised);
      top[h] = raised;
      float add = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int j = 2 * h; j < 2 * h + 2; ++j) {
          s[n][j] = Exp2(s[n][j] * r.scale - raised);
          add += s[n][j];
        }
      }
      sum[h] = sum[h] * factor + add;
#pragma unroll
      for (int n = 0; n < kHeadDim / 8; ++n) o[n][2 * h] *= factor, o[n][2 * h + 1] *= factor;
    }
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      const uint32_t a0 = PackBf16(s[2 * step][0], s[2 * step][1]), a1 = PackBf16(s[2 * step][2], s[2 * step][3]);
      const uint32_t a2 = PackBf16(s[2 * step + 1][0], s[2 * step + 1][1]);
      const uint32_t a3 = PackBf16(s[2 * step + 1][2], s[2 * step + 1][3]);
#pragma unroll
      for (int n = 0; n < kHeadDim / 16; ++n) {
        uint32_t b[4];
        LoadMatrix4Transposed(b, Swizzled<kHeadDim>(v_tile, step * 16 + (lane & 15), n * 2 + (lane >> 4)));
        Mma(o[2 * n], a0, a1, a2, a3, b[0], b[1]);
        Mma(o[2 * n + 1], a0, a1, a2, a3, b[2], b[3]);
      }
    }
  }
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 1);
    sum[h] += __shfl_xor_sync(0xffffffffu, sum[h], 2);
    const int row = block_row + w * 16 + g + 8 * h;
    if (row >= rows) continue;
    const float inverse = sum[h] > 0 ? 1.0f / sum[h] : 0.0f;
    uint32_t* out =
        reinterpret_cast<uint32_t*>(r.out + int64_t{first_row + row} * r.out_stride + head * r.out_head_stride);
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
      out[n * 4 + c] = PackBf16(o[n][2 * h] * inverse, o[n][2 * h + 1] * inverse);
    }
    if (r.lse != nullptr && c == 0) {
      r.lse[head * r.lse_stride + first_row + row] = sum[h] > 0 ? (top[h] + log2f(sum[h])) * kLn2 : -INFINITY;
    }
  }
}

template <int kHeadDim, typename Keys>
void Launch(Device& device, dim3 grid, const FlashRows& rows, const Keys& keys) {
  constexpr int kShared = (kRows + 4 * kKeys) * kHeadDim * 2;
  const auto kernel = FlashKernel<kHeadDim, Keys>;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  kernel<<<grid, kThreads, kShared, Stream(device)>>>(rows, keys);
  DUO_CUDA_CHECK(cudaGetLastError());
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
  rows.scale = kLog2e / sqrtf(static_cast<float>(a.head_dim));
  const dim3 grid(CeilDiv(a.rows, kRows), a.heads * a.group, a.splits);
  if (a.head_dim == 64) return Launch<64>(device, grid, rows, DenseKeys{a});
  Launch<128>(device, grid, rows, DenseKeys{a});
}

void FlashStreaming(Device& device, View out, View qkv, const HeadShape& shape, const SeqBatch& batch,
                    const RingKv& kv) {
  const int64_t first = int64_t{kv.first_head} * shape.head_dim;
  FlashRows rows = {};
  rows.q = qkv.as<bf16>() + first * shape.group;
  rows.q_stride = qkv.stride;
  rows.q_head_stride = rows.out_head_stride = shape.head_dim;
  rows.out = out.as<bf16>() + first * shape.group;
  rows.out_stride = out.stride;
  rows.group = shape.group;
  rows.scale = kLog2e / sqrtf(static_cast<float>(shape.head_dim));
  const StreamingKeys keys = {qkv.as<bf16>() + shape.q_cols() + first, shape.kv_cols(), qkv.stride, batch, kv};
  const dim3 grid(CeilDiv(batch.max_rows, kRows), kv.num_heads * shape.group, batch.num_seqs);
  if (shape.head_dim == 64) return Launch<64>(device, grid, rows, keys);
  Launch<128>(device, grid, rows, keys);
}

void FlashWindow(Device& device, View out, float* lse, View qkv, const HeadShape& shape, const WindowMask& mask) {
  FlashRows rows = {};
  rows.q = qkv.as<bf16>();
  rows.q_stride = qkv.stride;
  rows.q_head_stride = rows.out_head_stride = shape.head_dim;
  rows.out = out.as<bf16>();
  rows.out_stride = out.stride;
  rows.lse = lse;
  rows.lse_stride = out.rows;
  rows.splits = 1;
  rows.rows = static_cast<int>(out.rows);
  rows.group = shape.group;
  rows.scale = kLog2e / sqrtf(static_cast<float>(shape.head_dim));
  const WindowKeys keys = {qkv.as<bf16>() + shape.q_cols(), shape.kv_cols(), qkv.stride, shape.head_dim, mask};
  const dim3 grid(CeilDiv(rows.rows, kRows), shape.kv_heads * shape.group);
  if (shape.head_dim == 64) return Launch<64>(device, grid, rows, keys);
  Launch<128>(device, grid, rows, keys);
}

}  // namespace duo::cuda
