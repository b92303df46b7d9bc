// prefill_work.cuh: the warps that draw items and fetch their tiles and queries.
#pragma once

#include "kernels/cuda/hopper/prefill_work.cuh"

namespace duo::cuda {

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

// The warp that draws items and fetches tiles.
template <int kHeadDim, int kConsumers, bool kListed>
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
    const PrefillItem item = PrefillItem::Of<Shape::kRows, kListed>(w, index);
    // Where tile u lies: the row of its K, -1 - that row of qkv for own keys.
    auto row_of = [&](int u) {
      if constexpr (kListed) {
        const int page = u < item.own_count ? w.first_block + item.own_end - 1
                                            : __ldg(item.list + (item.pages_end - 1 - (u - item.own_count)));
        if (w.table == nullptr) return item.head * w.head_rows + (page - w.first_held) * w.id_rows;
        return item.head * w.head_rows + __ldg(w.table + page) * w.id_rows;
      }
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
      const bool partial =
          !kListed && u == item.own_count && item.pages_end == w.pages_count && w.last_tokens < kTileKeys;
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
template <int kHeadDim, int kConsumers, bool kListed>
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
    const PrefillItem item = PrefillItem::Of<Shape::kRows, kListed>(w, index);
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
    QueriesCopied(barriers);
  }
}
#endif

}  // namespace duo::cuda
