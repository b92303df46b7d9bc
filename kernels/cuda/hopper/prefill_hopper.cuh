// Prefill attention on Hopper, the device side. Many rows of one sequence attend to tiles of 128 keys: the pages of its
// history where they lie, one box of the tensor copy engine for K and one for V, then the step's own keys in qkv.
//
// A block has one warp group that fetches and two or three that compute. Rows are (token, query head of the group)
// pairs, 64 a computing warp group:
//   S [64 x 128] = Q [64 x d] * K^T     both from shared memory
//   O [64 x d]  += P [64 x 128] * V     P from registers
// A group's softmax of one tile runs while its product with V of the tile before is under way, and the groups take
// turns at issuing products, so that one's exponentials run beside another's products.
//
// Coded pages are decoded to bf16 pages in a staging of fixed size first, some at a time, by another kernel; the
// results of their launches are added up.
//
// Work: item = (KV head, block of rows, run of tiles). Blocks of the grid stay and draw items from a counter, long ones
// first. An item with a run of its own writes a partial (o, lse) in f32, which MergeSplits adds up in order.
//
// Tiles are taken from the newest to the oldest: the step's own from the diagonal down, then the history. Only the
// diagonal, the history's last partly filled page and the edge of a window are masked. Of a page that is not full, V's
// rows past the end are cleared in shared memory, because 0 * NaN would not be 0.
#pragma once

#include <type_traits>

#include "kernels/attention.h"
#include "kernels/cuda/hopper/score_rows.cuh"

namespace duo::cuda {

struct PrefillWork {
  // Boxes of 64 columns x 128 rows x head_dim / 64: of the pages' memory as rows of head_dim, of qkv's K and V columns.
  CUtensorMap pages, own;
  const bf16* q;  // row i of query head h at q + i * q_stride + h * head_dim
  int64_t q_stride;
  bf16* out;  // likewise
  int64_t out_stride;
  float* lse;  // [heads * group][lse_stride] or null
  int64_t lse_stride;
  // The result of rows [first_row, rows) is added to that of earlier keys, and goes to `out` only when it is the last.
  float* sum;            // [row - first_row][query head][head_dim], null: this is all
  const float* sum_lse;  // [row - first_row][query head], null: the first
  float* next_sum_lse;   // null: the last
  int first_row, rows, heads, group;
  float scale;                       // 1 / sqrt(head_dim) * log2 e
  int own_v;                         // V's first block of 64 columns in `own`
  bool has_own;                      // do the step's own keys take part?
  int history;                       // position of row 0
  int window;                        // 0: none
  int pages_count;                   // of history, held here, not hidden from every row
  int last_tokens;                   // in the last of them
  int first_held;                    // number of the first of them among the pages held here
  int slots, first_slot, num_slots;  // PagedKv
  const int32_t* table;              // of the sequence; null: the pages lie one after the other
  int head_rows, id_rows;            // rows of head_dim from one head, and one page id, to the next
  int row_blocks;                    // of one head
  int whole;                         // items that are whole (head, row block) pairs
  int splits;                        // runs that the tiles of each remaining pair are cut into
  int items;                         // in all
  float* partial;                    // [item - whole][kRows][head_dim]
  float* partial_lse;                // [item - whole][kRows]
  uint32_t* counter;                 // 0 at the start
};

template <int kHeadDim, int kConsumers>
struct PrefillShape {
  static constexpr int kRows = 64 * kConsumers;
  static constexpr int kHalves = kHeadDim / 64;
  static constexpr int kStages = kHeadDim == 64 ? 4 : 3;
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static constexpr int kQBytes = kRows * kHeadDim * 2;
  static constexpr int kTileBytes = kTileKeys * kHeadDim * 2;
  static constexpr int kConsumerRegisters = kConsumers == 2 ? 232 : 160;
  static constexpr int kProducerRegisters = kConsumers == 2 ? 40 : 32;
  static constexpr int kSharedBytes = 1024 + kQBytes + 2 * kStages * kTileBytes + 256;
};

// One item, as every role of a block sees it. Tile u of it, first <= u < last, is own tile own_end - 1 - u, or behind
// those page pages_end - 1 - (u - own_count) of the history.
struct PrefillItem {
  int head, row_block, first_token;
  int own_end, own_count, first, last;
  int pages_end;
  int slot;  // of its partial, -1: none

  template <int kRows>
  static __device__ __forceinline__ PrefillItem Of(const PrefillWork& w, int index) {
    PrefillItem item;
    int pair = index, run = 0, runs = 1;
    item.slot = -1;
    if (index >= w.whole) {
      item.slot = index - w.whole;
      pair = w.whole + item.slot / w.splits;
      run = item.slot % w.splits;
      runs = w.splits;
    }
    item.head = pair / w.row_blocks;
    item.row_block = w.row_blocks - 1 - pair % w.row_blocks;
    item.first_token = w.first_row + item.row_block * kRows / w.group;
    const int last_token = min(w.first_row + (item.row_block * kRows + kRows - 1) / w.group, w.rows - 1);
    item.pages_end = w.pages_count;
    item.own_end = w.has_own ? last_token / kTileKeys + 1 : 0;
    item.own_count = item.own_end;
    const int hidden = w.window > 0 ? item.first_token - w.window + 1 : 0;  // own keys that no row of the block sees
    if (hidden > 0) {
      item.own_count -= min(hidden / kTileKeys, item.own_count);
      item.pages_end = 0;
    }
    const int tiles = item.own_count + item.pages_end;
    item.first = static_cast<int>(static_cast<int64_t>(tiles) * run / runs);
    item.last = static_cast<int>(static_cast<int64_t>(tiles) * (run + 1) / runs);
    return item;
  }
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

// The barriers of a block, as shared addresses.
template <int kStages>
struct PrefillBarriers {
  uint32_t base;
  __device__ uint32_t QFull() const { return base; }
  __device__ uint32_t QEmpty() const { return base + 8; }
  __device__ uint32_t Cleared() const { return base + 16; }
  __device__ uint32_t ItemFull(int i) const { return base + 24 + 8 * i; }
  __device__ uint32_t ItemEmpty(int i) const { return base + 40 + 8 * i; }
  __device__ uint32_t KFull(int s) const { return base + 56 + 8 * s; }
  __device__ uint32_t KEmpty(int s) const { return KFull(kStages + s); }
  __device__ uint32_t VFull(int s) const { return KFull(2 * kStages + s); }
  __device__ uint32_t VEmpty(int s) const { return KFull(3 * kStages + s); }
};

// The warp that draws items and fetches tiles.
template <int kHeadDim, int kConsumers>
__device__ __forceinline__ void FetchTiles(const PrefillWork& w,
                                           const PrefillBarriers<PrefillShape<kHeadDim, kConsumers>::kStages>& barriers,
                                           uint32_t k_shared, uint32_t v_shared, volatile int* items) {
  using Shape = PrefillShape<kHeadDim, kConsumers>;
  const int lane = threadIdx.x % 32;
  Ring<Shape::kStages> k_ring, v_ring;
  Ring<2> item_ring;
  uint32_t cleared = 0;
  while (true) {
    BarrierWait(barriers.ItemEmpty(item_ring.stage), item_ring.phase ^ 1);
    int index = 0;
    if (lane == 0) {
      index = static_cast<int>(atomicAdd(w.counter, 1));
      items[item_ring.stage] = index;
      BarrierArrive(barriers.ItemFull(item_ring.stage));
    }
    index = __shfl_sync(0xffffffffu, index, 0);
    item_ring.Next();
    if (index >= w.items) return;
    const PrefillItem item = PrefillItem::Of<Shape::kRows>(w, index);
    // Where tile u lies: the row of its K, -1 - that row of qkv for own keys.
    auto row_of = [&](int u) {
      if (u < item.own_count) return -1 - (item.own_end - 1 - u) * kTileKeys;
      const int local = item.pages_end - 1 - (u - item.own_count), page = w.first_held + local;
      if (w.table == nullptr) return item.head * w.head_rows + local * w.id_rows;
      int id = page, in_id = 0;
      if (w.slots > 1) id = page / w.num_slots, in_id = page % w.num_slots;
      return item.head * w.head_rows + __ldg(w.table + id) * w.id_rows + in_id * 2 * kTileKeys;
    };
    auto fetch = [&](int row, bool is_v, uint32_t to, uint32_t barrier) {
      if (lane == 0) {
        BarrierArriveExpect(barrier, Shape::kTileBytes);
        if (row < 0) {
          const int block = item.head * Shape::kHalves + (is_v ? w.own_v : 0);
          CopyBox3(to, &w.own, 0, -1 - row, block, barrier);
        } else {
          CopyBox3(to, &w.pages, 0, row + (is_v ? kTileKeys : 0), 0, barrier);
        }
      }
    };
    auto fetch_k = [&](int row) {
      BarrierWait(barriers.KEmpty(k_ring.stage), k_ring.phase ^ 1);
      fetch(row, false, k_shared + k_ring.stage * Shape::kTileBytes, barriers.KFull(k_ring.stage));
      k_ring.Next();
    };
    auto fetch_v = [&](int u, int row) {
      const uint32_t to = v_shared + v_ring.stage * Shape::kTileBytes;
      BarrierWait(barriers.VEmpty(v_ring.stage), v_ring.phase ^ 1);
      const bool partial = u == item.own_count && item.pages_end == w.pages_count && w.last_tokens < kTileKeys;
      fetch(row, true, to, partial ? barriers.Cleared() : barriers.VFull(v_ring.stage));
      if (partial) {
        BarrierWait(barriers.Cleared(), cleared);
        cleared ^= 1;
        for (int i = lane; i < Shape::kHalves * kTileKeys * 8; i += 32) {
          const int key = i / 8 % kTileKeys;
          if (key >= w.last_tokens) {
            asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(to + i * 16), "r"(0) : "memory");
          }
        }
        SharedStoresFence();
        __syncwarp();
        if (lane == 0) BarrierArrive(barriers.VFull(v_ring.stage));
      }
      v_ring.Next();
    };
    if (item.first >= item.last) continue;
    int row = row_of(item.first), next = 0;
    if (item.first + 1 < item.last) next = row_of(item.first + 1);
    fetch_k(row);
    for (int u = item.first; u < item.last; ++u) {
      if (u + 1 < item.last) fetch_k(next);
      int after = 0;
      if (u + 2 < item.last) after = row_of(u + 2);
      fetch_v(u, row);
      row = next;
      next = after;
    }
  }
}

// The warps that fetch queries; `thread` of kLoaders.
template <int kHeadDim, int kConsumers>
__device__ __forceinline__ void FetchQueries(
    const PrefillWork& w, const PrefillBarriers<PrefillShape<kHeadDim, kConsumers>::kStages>& barriers,
    uint32_t q_shared, volatile int* items, int thread) {
  using Shape = PrefillShape<kHeadDim, kConsumers>;
  constexpr int kLoaders = 96, kPieces = kHeadDim / 8;
  Ring<2> item_ring;
  uint32_t q_phase = 1;
  while (true) {
    BarrierWait(barriers.ItemFull(item_ring.stage), item_ring.phase);
    const int index = Uniform(items[item_ring.stage]);
    if (thread % 32 == 0) BarrierArrive(barriers.ItemEmpty(item_ring.stage));
    item_ring.Next();
    if (index >= w.items) return;
    const PrefillItem item = PrefillItem::Of<Shape::kRows>(w, index);
    BarrierWait(barriers.QEmpty(), q_phase);
    q_phase ^= 1;
    for (int i = thread; i < Shape::kRows * kPieces; i += kLoaders) {
      const int row = i / kPieces, piece = i % kPieces, packed = item.row_block * Shape::kRows + row;
      const int token = w.first_row + packed / w.group, head = item.head * w.group + packed % w.group;
      const bool valid = token < w.rows;
      const bf16* from = w.q + (valid ? token : 0) * w.q_stride + head * kHeadDim + piece * 8;
      const uint32_t to = q_shared + piece / 8 * (Shape::kRows * 128) + row * 128 + ((piece % 8) ^ (row % 8)) * 16;
      CopyAsync16(to, from, valid);
    }
    CopyAsyncCommit();
    CopyAsyncWait<0>();
    SharedStoresFence();
    BarrierArrive(barriers.QFull());
  }
}

// Stores a row's result over these keys: columns 8 j + 2 c and the next are x(j).
template <int kHeadDim, typename X>
__device__ __forceinline__ void Store(const PrefillWork& w, int token, int head, float lse, int c, X&& x) {
  MergedWeights weights = {0, 1, lse};
  float* sum = nullptr;
  if (w.sum != nullptr) {
    const int64_t at = int64_t{token - w.first_row} * (w.heads * w.group) + head;
    sum = w.sum + at * kHeadDim + 2 * c;
    if (w.sum_lse != nullptr) weights = MergeWeights(w.sum_lse[at], lse);
    if (w.next_sum_lse != nullptr && c == 0) w.next_sum_lse[at] = weights.lse;
  }
  bf16* out = w.out + token * w.out_stride + head * kHeadDim + 2 * c;
  const bool last = w.next_sum_lse == nullptr;
#pragma unroll
  for (int j = 0; j < kHeadDim / 8; ++j) {
    float2 v = x(j);
    v.x *= weights.b;
    v.y *= weights.b;
    if (w.sum_lse != nullptr) {
      const float2 before = *reinterpret_cast<const float2*>(sum + 8 * j);
      v.x += weights.a * before.x;
      v.y += weights.a * before.y;
    }
    if (last) {
      *reinterpret_cast<uint32_t*>(out + 8 * j) = PackBf16(v.x, v.y);
    } else {
      *reinterpret_cast<float2*>(sum + 8 * j) = v;
    }
  }
  if (last && c == 0 && w.lse != nullptr) w.lse[head * w.lse_stride + token] = weights.lse;
}

template <int kHeadDim, int kConsumers>
__device__ __forceinline__ void Compute(const PrefillWork& w,
                                        const PrefillBarriers<PrefillShape<kHeadDim, kConsumers>::kStages>& barriers,
                                        uint32_t q_shared, uint32_t k_shared, uint32_t v_shared, volatile int* items,
                                        int consumer) {
  using Shape = PrefillShape<kHeadDim, kConsumers>;
  constexpr uint32_t kHalfQ = Shape::kRows * 128, kHalfTile = kTileKeys * 128;
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4, warp = threadIdx.x / 32 % 4;
  const int my_turn = 1 + consumer, next_turn = 1 + (consumer + 1) % kConsumers;
  if (consumer == kConsumers - 1) NamedArrive(1, 256);
  Ring<Shape::kStages> k_ring, v_ring;
  Ring<2> item_ring;
  uint32_t q_phase = 0;
  ScoreRows<kHeadDim> rows;
  const uint64_t q_operand = Operand(q_shared + consumer * 64 * 128, 1024, 16);
  while (true) {
    BarrierWait(barriers.ItemFull(item_ring.stage), item_ring.phase);
    const int index = Uniform(items[item_ring.stage]);
    if (lane == 0) BarrierArrive(barriers.ItemEmpty(item_ring.stage));
    item_ring.Next();
    if (index >= w.items) return;
    const PrefillItem item = PrefillItem::Of<Shape::kRows>(w, index);

    int packed[2], token[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      packed[r] = item.row_block * Shape::kRows + consumer * 64 + warp * 16 + g + 8 * r;
      token[r] = w.first_row + packed[r] / w.group;
    }
    rows.Reset();
    auto scores = [&] {
      const uint64_t k_operand = Operand(k_shared + k_ring.stage * Shape::kTileBytes, 1024, 16);
      WgmmaFence();
#pragma unroll
      for (int step = 0; step < kHeadDim / 16; ++step) {
        const uint64_t a = Ahead(q_operand, step / 4 * kHalfQ + step % 4 * 32);
        const uint64_t b = Ahead(k_operand, step / 4 * kHalfTile + step % 4 * 32);
        if (step == 0) {
          WgmmaShared<false>(rows.s, a, b);
        } else {
          WgmmaShared<true>(rows.s, a, b);
        }
      }
      WgmmaCommit();
    };
    auto values = [&] {
      const uint64_t v_operand = Operand(v_shared + v_ring.stage * Shape::kTileBytes, 1024, kHalfTile);
      WgmmaFence();
#pragma unroll
      for (int step = 0; step < kTileKeys / 16; ++step) {
        WgmmaRegisters(rows.o, &rows.p[4 * step], Ahead(v_operand, step * 16 * 128));
      }
      WgmmaCommit();
    };
    auto release = [&](uint32_t barrier) {
      if (lane == 0) BarrierArrive(barrier);
    };
    // The first tile from u on of which columns are hidden from some row. With a window, every tile counts as one.
    int diagonal = 0;  // so many own tiles reach past the first row
    if (item.own_count > 0) diagonal = min(item.own_count, item.own_end - (item.first_token + 1) / kTileKeys);
    const bool partial_page = item.pages_end == w.pages_count && item.pages_end > 0 && w.last_tokens < kTileKeys;
    auto next_masked = [&](int u) {
      if (w.window > 0 || u < diagonal) return u;
      return u <= item.own_count && partial_page ? item.own_count : item.last;
    };
    auto mask = [&](int u) {
      int first, high;  // the tile's first key among those that row 0 of the step is 0 of, and its last valid column
      if (u < item.own_count) {
        first = (item.own_end - 1 - u) * kTileKeys;
        high = kTileKeys - 1;
      } else {
        const int page = item.pages_end - 1 - (u - item.own_count);
        int number = w.first_held + page;
        if (w.slots > 1) number = number / w.num_slots * w.slots + w.first_slot + number % w.num_slots;
        first = number * kTileKeys - w.history;
        high = page == w.pages_count - 1 ? w.last_tokens - 1 : kTileKeys - 1;
      }
      const int window = w.window > 0 ? w.window : INT32_MAX / 2;
      const int lows[2] = {token[0] - window + 1 - first, token[1] - window + 1 - first};
      const int highs[2] = {min(token[0] - first, high), min(token[1] - first, high)};
      rows.Mask(lows, highs, c);
    };

    BarrierWait(barriers.QFull(), q_phase);
    q_phase ^= 1;
    float factor[2];
    if (item.first < item.last) {
      BarrierWait(barriers.KFull(k_ring.stage), k_ring.phase);
      scores();
      WgmmaWait<0>();
      Pin(rows.s);
      release(barriers.KEmpty(k_ring.stage));
      k_ring.Next();
      if (next_masked(item.first) == item.first) mask(item.first);
      rows.Softmax(w.scale, factor);
      rows.Pack();
      // The next tile's scores, and this tile's values. No branch may lie between the two waits: the compiler would
      // wait for all products at once.
      auto step = [&](int u, auto with_mask) {
        BarrierWait(barriers.KFull(k_ring.stage), k_ring.phase);
        NamedSync(my_turn, 256);
        scores();
        rows.Rescale(factor);  // beside the product
        BarrierWait(barriers.VFull(v_ring.stage), v_ring.phase);
        values();
        NamedArrive(next_turn, 256);
        WgmmaWait<1>();
        Pin(rows.s);
        release(barriers.KEmpty(k_ring.stage));
        k_ring.Next();
        if constexpr (with_mask) mask(u);
        rows.Softmax(w.scale, factor);
        rows.ExponentialsDone();
        WgmmaWait<0>();
        Pin(rows.o);
        release(barriers.VEmpty(v_ring.stage));
        v_ring.Next();
        rows.Pack();
      };
      for (int u = item.first + 1; u < item.last;) {
        for (const int end = min(next_masked(u), item.last); u < end; ++u) step(u, std::false_type());
        if (u < item.last) step(u++, std::true_type());
      }
      release(barriers.QEmpty());
      rows.Rescale(factor);
      BarrierWait(barriers.VFull(v_ring.stage), v_ring.phase);
      values();
      WgmmaWait<0>();
      Pin(rows.o);
      release(barriers.VEmpty(v_ring.stage));
      v_ring.Next();
    } else {
      release(barriers.QEmpty());
    }

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = rows.sum[r];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const float inverse = sum > 0 ? 1.0f / sum : 0.0f;
      const float lse = sum > 0 ? (rows.top[r] * w.scale + log2f(sum)) * kLn2 : -INFINITY;
      if (item.slot >= 0) {
        const int64_t at = int64_t{item.slot} * Shape::kRows + consumer * 64 + warp * 16 + g + 8 * r;
        float* to = w.partial + at * kHeadDim + 2 * c;
#pragma unroll
        for (int j = 0; j < kHeadDim / 8; ++j) {
          *reinterpret_cast<float2*>(to + 8 * j) =
              make_float2(rows.o[4 * j + 2 * r] * inverse, rows.o[4 * j + 2 * r + 1] * inverse);
        }
        if (c == 0) w.partial_lse[at] = lse;
      } else if (token[r] < w.rows) {
        const int head = item.head * w.group + packed[r] % w.group;
        Store<kHeadDim>(w, token[r], head, lse, c, [&](int j) {
          return make_float2(rows.o[4 * j + 2 * r] * inverse, rows.o[4 * j + 2 * r + 1] * inverse);
        });
      }
    }
  }
}
#endif

template <int kHeadDim, int kConsumers>
__global__ void __launch_bounds__(PrefillShape<kHeadDim, kConsumers>::kThreads, 1)
    PrefillKernel(const __grid_constant__ PrefillWork w) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Shape = PrefillShape<kHeadDim, kConsumers>;
  extern __shared__ uint8_t shared[];
  const uint32_t base = (SharedAddress(shared) + 1023) / 1024 * 1024;
  const uint32_t q_shared = base, k_shared = q_shared + Shape::kQBytes,
                 v_shared = k_shared + Shape::kStages * Shape::kTileBytes,
                 end = v_shared + Shape::kStages * Shape::kTileBytes;
  volatile int* items = reinterpret_cast<volatile int*>(shared + (end - SharedAddress(shared)));
  const PrefillBarriers<Shape::kStages> barriers = {end + 16};
  if (threadIdx.x == 0) {
    BarrierInit(barriers.QFull(), 96);
    BarrierInit(barriers.QEmpty(), 4 * kConsumers);
    BarrierInit(barriers.Cleared(), 1);
    for (int i = 0; i < 2; ++i) {
      BarrierInit(barriers.ItemFull(i), 1);
      BarrierInit(barriers.ItemEmpty(i), 4 * kConsumers + 3);
    }
    for (int s = 0; s < Shape::kStages; ++s) {
      BarrierInit(barriers.KFull(s), 1);
      BarrierInit(barriers.VFull(s), 1);
      BarrierInit(barriers.KEmpty(s), 4 * kConsumers);
      BarrierInit(barriers.VEmpty(s), 4 * kConsumers);
    }
    BarrierInitFence();
  }
  __syncthreads();
  const int group = Uniform(threadIdx.x / 128);
  if (group == 0) {
    ShrinkRegisters<Shape::kProducerRegisters>();
    if (threadIdx.x < 32) {
      FetchTiles<kHeadDim, kConsumers>(w, barriers, k_shared, v_shared, items);
    } else {
      FetchQueries<kHeadDim, kConsumers>(w, barriers, q_shared, items, threadIdx.x - 32);
    }
  } else {
    GrowRegisters<Shape::kConsumerRegisters>();
    Compute<kHeadDim, kConsumers>(w, barriers, q_shared, k_shared, v_shared, items, group - 1);
  }
#endif
}

}  // namespace duo::cuda
