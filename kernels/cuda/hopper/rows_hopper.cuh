// Attention of few rows on Hopper, the device side: steps of answers being written, short appends, forks of one
// document. Rows of all sequences that see a page share its read (rows_plan.h).
//
// A block has one warp group that fetches pages by the tensor copy engine and two that compute. Both compute the same
// 64 (row, query head) pairs, over every other page of a range each; then they are added up, in that order. Reading is
// what takes time, so nothing is overlapped inside a warp group.
#pragma once

#include "kernels/cuda/hopper/rows_plan.cuh"
#include "kernels/cuda/hopper/score_rows.cuh"

namespace duo::cuda {

struct RowsWork {
  CUtensorMap pages;  // boxes of 64 columns x 128 rows x head_dim / 64 of the pages' memory, rows of head_dim
  const bf16* q;      // row i of query head h at q + i * q_stride + h * head_dim
  int64_t q_stride;
  bf16* out;  // likewise
  int64_t out_stride;
  float* lse;  // [heads * group][num_rows] or null
  int num_rows, num_seqs, heads, group;
  float scale;  // 1 / sqrt(head_dim) * log2 e
  const int32_t* positions;
  PagedKv kv;
  int head_rows, id_rows;  // rows of head_dim from one head, and one page id, to the next
  RowsCuts cuts;
  RowsPlan plan;
  float* partial;      // [slot][heads * group][head_dim]
  float* partial_lse;  // [slot][heads * group]
};

template <int kHeadDim>
struct RowsShape {
  static constexpr int kHalves = kHeadDim / 64;
  // Even, so that in an item a stage belongs to one computing group: a group that saw only every other phase of a
  // barrier would mistake an old one for its own. K leaves early, V late.
  static constexpr int kKStages = kHeadDim == 64 ? 4 : 2, kVStages = kHeadDim == 64 ? 6 : 4;
  static constexpr int kThreads = 384;
  static constexpr int kExchangeBytes = kBlockRows * 64 * 4;  // in the place of the queries
  static constexpr int kQBytes = kBlockRows * kHeadDim * 2 > kExchangeBytes ? kBlockRows* kHeadDim * 2 : kExchangeBytes;
  static constexpr int kTileBytes = kTileKeys * kHeadDim * 2;
  static constexpr int kSharedBytes = 1024 + kQBytes + (kKStages + kVStages) * kTileBytes + 512;
};

// What the fetching warp tells the others about an item. Tile t, 0 <= t < tiles, has the positions from
// position(first_page + t) on.
struct RowsItem {
  int done;        // nothing is left
  int first_page;  // of those held here
  int tiles;
  int head;
  int first_in_list;  // of the block's rows
  int first_row;      // (row, query head) pairs before the block, in the segment
  int pairs;          // in the segment
  int slot;           // of the segment's first row in this range
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <int kHeadDim>
struct RowsBarriers {
  static constexpr int kK = RowsShape<kHeadDim>::kKStages, kV = RowsShape<kHeadDim>::kVStages;
  uint32_t base;
  __device__ uint32_t QFull() const { return base; }
  __device__ uint32_t QEmpty() const { return base + 8; }
  __device__ uint32_t Cleared() const { return base + 16; }
  __device__ uint32_t ItemFull(int i) const { return base + 24 + 8 * i; }
  __device__ uint32_t ItemEmpty(int i) const { return base + 40 + 8 * i; }
  __device__ uint32_t KFull(int s) const { return base + 56 + 8 * s; }
  __device__ uint32_t KEmpty(int s) const { return KFull(kK + s); }
  __device__ uint32_t VFull(int s) const { return KFull(2 * kK + s); }
  __device__ uint32_t VEmpty(int s) const { return KFull(2 * kK + kV + s); }
};

// Position of the first token of the q-th page held here.
__device__ __forceinline__ int PositionOf(const PagedKv& kv, int q) {
  return (kv.slots == 1 ? q : q / kv.num_slots * kv.slots + kv.first_slot + q % kv.num_slots) * kPageTokens;
}

template <int kHeadDim>
__device__ __forceinline__ void FetchRowsTiles(const RowsWork& w, const RowsBarriers<kHeadDim>& barriers,
                                               uint32_t k_shared, uint32_t v_shared, RowsItem* items) {
  using Shape = RowsShape<kHeadDim>;
  const int lane = threadIdx.x % 32;
  const int segments = 2 * w.num_seqs, total = __ldg(w.plan.first_item + segments);
  // Of few segments a lane keeps one's first item, so that finding an item's segment asks memory for nothing.
  const bool few = segments <= 32;
  const int first_item = few && lane < segments ? __ldg(w.plan.first_item + lane) : INT32_MAX;
  Ring<Shape::kKStages> k_ring;
  Ring<Shape::kVStages> v_ring;
  Ring<2> item_ring;
  uint32_t cleared = 0;
  int index = blockIdx.x;
  bool first_draw = true;
  while (true) {
    BarrierWait(barriers.ItemEmpty(item_ring.stage), item_ring.phase ^ 1);
    if (!first_draw) {
      if (lane == 0) index = static_cast<int>(gridDim.x + atomicAdd(w.plan.counter, 1));
      index = __shfl_sync(0xffffffffu, index, 0);
    }
    first_draw = false;
    RowsItem item = {};
    item.done = index >= total;
    int tokens = 0;
    const int32_t* table = nullptr;
    if (!item.done) {
      // The last segment that begins at or before the item, 32 candidates at a time.
      int low = 0, high = segments, first = 0;  // in [low, high)
      if (few) {
        low = 31 - __clz(__ballot_sync(0xffffffffu, first_item <= index));
        first = __shfl_sync(0xffffffffu, first_item, low);
      } else {
        while (high - low > 1) {
          const int step = (high - low + 31) / 32, at = low + lane * step;
          const uint32_t before = __ballot_sync(0xffffffffu, at < high && __ldg(w.plan.first_item + at) <= index);
          const int last = 31 - __clz(before);
          high = min(high, low + (last + 1) * step);
          low += last * step;
        }
        first = __ldg(w.plan.first_item + low);
      }
      const RowsSegment segment = w.plan.segments[low];
      int rest = index - first;
      const int block = rest % segment.blocks;
      rest /= segment.blocks;
      // Heads before ranges, late ranges first: they are the long ones.
      const int range = segment.ranges - 1 - rest / w.heads;
      item.head = rest % w.heads;
      item.first_in_list = segment.first_in_list;
      item.first_row = block * kBlockRows;
      item.pairs = segment.rows * w.group;
      item.slot = segment.first_slot + range * segment.rows;
      tokens = segment.tokens;
      const int begin = w.cuts.Begin(segment.first_range + range),
                end = min(w.cuts.Begin(segment.first_range + range + 1), tokens);
      item.first_page = static_cast<int>(w.kv.held_count(begin / kPageTokens));
      item.tiles = static_cast<int>(w.kv.held_count((end + kPageTokens - 1) / kPageTokens)) - item.first_page;
      table = w.kv.tables + segment.table * w.kv.table_stride;
    }
    if (lane == 0) {
      items[item_ring.stage] = item;
      BarrierArrive(barriers.ItemFull(item_ring.stage));
    }
    item_ring.Next();
    if (item.done) return;
    auto row_of = [&](int t) {
      int id = item.first_page + t, in_id = 0;
      if (w.kv.slots > 1) in_id = id % w.kv.num_slots, id = id / w.kv.num_slots;
      return item.head * w.head_rows + __ldg(table + id) * w.id_rows + in_id * 2 * kTileKeys;
    };
    int row = item.tiles > 0 ? row_of(0) : 0;
    for (int t = 0; t < item.tiles; ++t) {
      const int next = t + 1 < item.tiles ? row_of(t + 1) : 0;
      const uint32_t v_to = v_shared + v_ring.stage * Shape::kTileBytes;
      const int valid = tokens - PositionOf(w.kv, item.first_page + t);
      BarrierWait(barriers.KEmpty(k_ring.stage), k_ring.phase ^ 1);
      if (lane == 0) {
        BarrierArriveExpect(barriers.KFull(k_ring.stage), Shape::kTileBytes);
        CopyBox3(k_shared + k_ring.stage * Shape::kTileBytes, &w.pages, 0, row, 0, barriers.KFull(k_ring.stage));
      }
      BarrierWait(barriers.VEmpty(v_ring.stage), v_ring.phase ^ 1);
      const uint32_t v_full = valid < kTileKeys ? barriers.Cleared() : barriers.VFull(v_ring.stage);
      if (lane == 0) {
        BarrierArriveExpect(v_full, Shape::kTileBytes);
        CopyBox3(v_to, &w.pages, 0, row + kTileKeys, 0, v_full);
      }
      if (valid < kTileKeys) {  // 0 * NaN is not 0: rows of V past the end are cleared
        BarrierWait(v_full, cleared);
        cleared ^= 1;
        for (int i = lane; i < Shape::kHalves * kTileKeys * 8; i += 32) {
          if (i / 8 % kTileKeys >= valid) {
            asm volatile("st.shared.v4.u32 [%0], {%1, %1, %1, %1};" ::"r"(v_to + i * 16), "r"(0) : "memory");
          }
        }
        SharedStoresFence();
        __syncwarp();
        if (lane == 0) BarrierArrive(barriers.VFull(v_ring.stage));
      }
      k_ring.Next();
      v_ring.Next();
      row = next;
    }
  }
}

// `thread` of 96.
template <int kHeadDim>
__device__ __forceinline__ void FetchRowsQueries(const RowsWork& w, const RowsBarriers<kHeadDim>& barriers,
                                                 uint32_t q_shared, const RowsItem* items, int thread) {
  constexpr int kPieces = kHeadDim / 8;
  Ring<2> item_ring;
  uint32_t q_phase = 1;
  while (true) {
    BarrierWait(barriers.ItemFull(item_ring.stage), item_ring.phase);
    const RowsItem item = items[item_ring.stage];
    __syncwarp();
    if (thread % 32 == 0) BarrierArrive(barriers.ItemEmpty(item_ring.stage));
    item_ring.Next();
    if (item.done) return;
    BarrierWait(barriers.QEmpty(), q_phase);
    q_phase ^= 1;
    for (int i = thread; i < kBlockRows * kPieces; i += 96) {
      const int row = i / kPieces, piece = i % kPieces, pair = item.first_row + row;
      const bool valid = pair < item.pairs;
      const bf16* from = w.q;
      if (valid) {
        from += __ldg(w.plan.list + item.first_in_list + pair / w.group) * w.q_stride +
                (item.head * w.group + pair % w.group) * kHeadDim + piece * 8;
      }
      CopyAsync16(q_shared + piece / 8 * (kBlockRows * 128) + row * 128 + ((piece % 8) ^ (row % 8)) * 16, from, valid);
    }
    CopyAsyncCommit();
    CopyAsyncWait<0>();
    SharedStoresFence();
    BarrierArrive(barriers.QFull());
  }
}

template <int kHeadDim>
__device__ __forceinline__ void ComputeRows(const RowsWork& w, const RowsBarriers<kHeadDim>& barriers,
                                            uint32_t q_shared, uint32_t k_shared, uint32_t v_shared,
                                            const RowsItem* items, int consumer) {
  using Shape = RowsShape<kHeadDim>;
  constexpr uint32_t kHalfQ = kBlockRows * 128, kHalfTile = kTileKeys * 128;
  constexpr int kTogether = 1;  // the barrier of both computing groups
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4, warp = threadIdx.x / 32 % 4;
  Ring<Shape::kKStages> k_ring;
  Ring<Shape::kVStages> v_ring;
  Ring<2> item_ring;
  uint32_t q_phase = 0;
  ScoreRows<kHeadDim> rows;
  const uint64_t q_operand = Operand(q_shared, 1024, 16);
  // The other group's output, 64 channels at a time, in the place of the queries: [pair][64] f32.
  float* exchange = reinterpret_cast<float*>(__cvta_shared_to_generic(q_shared));
  while (true) {
    BarrierWait(barriers.ItemFull(item_ring.stage), item_ring.phase);
    const RowsItem item = items[item_ring.stage];
    __syncwarp();
    if (lane == 0) BarrierArrive(barriers.ItemEmpty(item_ring.stage));
    item_ring.Next();
    if (item.done) return;
    // A warp without rows takes part in products only.
    const bool useful = item.first_row + 16 * warp < item.pairs;
    int pair[2], position[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      pair[r] = item.first_row + warp * 16 + g + 8 * r;
      position[r] = INT32_MAX;
      if (pair[r] < item.pairs) {
        position[r] = __ldg(w.positions + __ldg(w.plan.list + item.first_in_list + pair[r] / w.group));
      }
    }
    rows.Reset();
#pragma unroll
    for (int i = 0; i < 32; ++i) rows.p[i] = 0;
    BarrierWait(barriers.QFull(), q_phase);
    q_phase ^= 1;
    for (int t = 0; t < item.tiles; ++t) {
      if (t % 2 != consumer) {
        k_ring.Next();
        v_ring.Next();
        continue;
      }
      BarrierWait(barriers.KFull(k_ring.stage), k_ring.phase);
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
      WgmmaWait<0>();
      Pin(rows.s);
      if (lane == 0) BarrierArrive(barriers.KEmpty(k_ring.stage));
      if (useful) {
        const int first = PositionOf(w.kv, item.first_page + t);
        const bool hidden = position[0] < first + kTileKeys - 1 || position[1] < first + kTileKeys - 1;
        if (__any_sync(0xffffffffu, hidden)) {
          const int low[2] = {0, 0}, high[2] = {position[0] - first, position[1] - first};
          rows.Mask(low, high, c);
        }
        float factor[2];
        rows.Softmax(w.scale, factor);
        rows.Pack();
        rows.Rescale(factor);
      }
      BarrierWait(barriers.VFull(v_ring.stage), v_ring.phase);
      const uint64_t v_operand = Operand(v_shared + v_ring.stage * Shape::kTileBytes, 1024, kHalfTile);
      WgmmaFence();
#pragma unroll
      for (int step = 0; step < kTileKeys / 16; ++step) {
        WgmmaRegisters(rows.o, &rows.p[4 * step], Ahead(v_operand, step * 16 * 128));
      }
      WgmmaCommit();
      WgmmaWait<0>();
      Pin(rows.o);
      if (lane == 0) BarrierArrive(barriers.VEmpty(v_ring.stage));
      k_ring.Next();
      v_ring.Next();
    }

    // Both groups' sums together.
    float top[2], sum[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      sum[r] = rows.sum[r] + __shfl_xor_sync(0xffffffffu, rows.sum[r], 1);
      sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
      top[r] = rows.top[r];
    }
    float mine[2] = {1, 1}, other[2] = {};
#pragma unroll
    for (int half = -1; half < Shape::kHalves; ++half) {
      NamedSync(kTogether, 256);  // nobody needs the queries, or the half before, any more
      if (consumer == 1 && useful) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float* to = exchange + (warp * 16 + g + 8 * r) * 64 + 2 * c;
          if (half < 0) {
            if (c == 0) to[0] = top[r], to[1] = sum[r];
            continue;
          }
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            // Which eight columns go where depends on the row, so that rows meet in different banks.
            float2* at = reinterpret_cast<float2*>(to + 8 * (j ^ g));
            *at = make_float2(rows.o[(half * 8 + j) * 4 + 2 * r], rows.o[(half * 8 + j) * 4 + 2 * r + 1]);
          }
        }
      }
      NamedSync(kTogether, 256);
      if (consumer == 0 && useful) {
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const float* from = exchange + (warp * 16 + g + 8 * r) * 64;
          const bool valid = pair[r] < item.pairs;
          const int64_t at =
              int64_t{item.slot + pair[r] / w.group} * (w.heads * w.group) + item.head * w.group + pair[r] % w.group;
          if (half < 0) {
            const float their_top = from[0], their_sum = from[1];
            const float highest = fmaxf(top[r], their_top);
            if (highest != -INFINITY) {
              mine[r] = Exp2((top[r] - highest) * w.scale);
              other[r] = Exp2((their_top - highest) * w.scale);
            }
            const float total = sum[r] * mine[r] + their_sum * other[r];
            const float inverse = total > 0 ? 1.0f / total : 0.0f;
            mine[r] *= inverse;
            other[r] *= inverse;
            if (valid && c == 0) {
              w.partial_lse[at] = total > 0 ? (highest * w.scale + log2f(total)) * kLn2 : -INFINITY;
            }
            continue;
          }
          if (!valid) continue;
          float* to = w.partial + at * kHeadDim + half * 64 + 2 * c;
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            const float2 x = *reinterpret_cast<const float2*>(from + 2 * c + 8 * (j ^ g));
            *reinterpret_cast<float2*>(to + 8 * j) =
                make_float2(rows.o[(half * 8 + j) * 4 + 2 * r] * mine[r] + x.x * other[r],
                            rows.o[(half * 8 + j) * 4 + 2 * r + 1] * mine[r] + x.y * other[r]);
          }
        }
      }
    }
    __syncwarp();
    if (consumer == 0 && lane == 0) BarrierArrive(barriers.QEmpty());
  }
}
#endif

template <int kHeadDim>
__global__ void __launch_bounds__(RowsShape<kHeadDim>::kThreads, 1) RowsKernel(const __grid_constant__ RowsWork w) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Shape = RowsShape<kHeadDim>;
  extern __shared__ uint8_t shared[];
  const uint32_t base = (SharedAddress(shared) + 1023) / 1024 * 1024;
  const uint32_t q_shared = base, k_shared = q_shared + Shape::kQBytes,
                 v_shared = k_shared + Shape::kKStages * Shape::kTileBytes,
                 end = v_shared + Shape::kVStages * Shape::kTileBytes;
  RowsItem* items = reinterpret_cast<RowsItem*>(shared + (end - SharedAddress(shared)));
  const RowsBarriers<kHeadDim> barriers = {end + 64};
  static_assert(2 * sizeof(RowsItem) <= 64);
  LetDependentsStart();
  if (threadIdx.x == 0) {
    BarrierInit(barriers.QFull(), 96);
    BarrierInit(barriers.QEmpty(), 4);
    BarrierInit(barriers.Cleared(), 1);
    for (int i = 0; i < 2; ++i) {
      BarrierInit(barriers.ItemFull(i), 1);
      BarrierInit(barriers.ItemEmpty(i), 8 + 3);
    }
    for (int s = 0; s < Shape::kKStages; ++s) {
      BarrierInit(barriers.KFull(s), 1);
      BarrierInit(barriers.KEmpty(s), 4);
    }
    for (int s = 0; s < Shape::kVStages; ++s) {
      BarrierInit(barriers.VFull(s), 1);
      BarrierInit(barriers.VEmpty(s), 4);
    }
    BarrierInitFence();
  }
  __syncthreads();
  WaitForDependency();
  const int group = Uniform(threadIdx.x / 128);
  if (group == 0) {
    ShrinkRegisters<56>();
    if (threadIdx.x < 32) {
      FetchRowsTiles<kHeadDim>(w, barriers, k_shared, v_shared, items);
    } else {
      FetchRowsQueries<kHeadDim>(w, barriers, q_shared, items, threadIdx.x - 32);
    }
  } else {
    GrowRegisters<224>();
    ComputeRows<kHeadDim>(w, barriers, q_shared, k_shared, v_shared, items, group - 1);
  }
#endif
}

}  // namespace duo::cuda
