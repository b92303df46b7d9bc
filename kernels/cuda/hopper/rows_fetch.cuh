// rows_work.cuh: the warps that draw items and fetch their pages and queries.
#pragma once

#include "kernels/cuda/hopper/rows_work.cuh"

namespace duo::cuda {

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Draws items for a warp, and tells what each is.
struct RowsDraw {
  const RowsWork& w;
  int lane, block_pairs, segments, total;
  bool few;        // segments: a lane keeps one's first item, so that finding an item's segment asks memory for nothing
  int first_item;  // of the lane's segment
  int index;
  bool first_draw = true;
  const int32_t* table = nullptr;  // of the last item

  __device__ __forceinline__ RowsDraw(const RowsWork& w, int block_pairs)
      : w(w),
        lane(threadIdx.x % 32),
        block_pairs(block_pairs),
        segments(2 * w.num_seqs),
        total(__ldg(w.plan.first_item + segments) * w.heads),
        few(segments <= 32),
        first_item(few && lane < segments ? FirstItem(lane) : INT32_MAX),
        index(blockIdx.x) {}
  __device__ __forceinline__ int FirstItem(int segment) const { return __ldg(w.plan.first_item + segment) * w.heads; }
  // The last segment that begins at or before the item; `first` becomes its first item.
  __device__ __forceinline__ int SegmentOf(int& first) const {
    if (few) {
      const int found = 31 - __clz(__ballot_sync(0xffffffffu, first_item <= index));
      first = __shfl_sync(0xffffffffu, first_item, found);
      return found;
    }
    int low = 0, high = segments;  // 32 candidates at a time in [low, high)
    while (high - low > 1) {
      const int step = (high - low + 31) / 32, at = low + lane * step;
      const uint32_t before = __ballot_sync(0xffffffffu, at < high && FirstItem(at) <= index);
      const int last = 31 - __clz(before);
      high = min(high, low + (last + 1) * step);
      low += last * step;
    }
    first = FirstItem(low);
    return low;
  }
  __device__ __forceinline__ RowsItem Next() {
    if (!first_draw) {
      if (lane == 0) index = static_cast<int>(gridDim.x + atomicAdd(w.plan.counter, 1));
      index = __shfl_sync(0xffffffffu, index, 0);
    }
    first_draw = false;
    RowsItem item = {};
    item.tiles = -1;
    if (index >= total) return item;
    int first = 0;
    const RowsSegment segment = w.plan.segments[SegmentOf(first)];
    int rest = index - first;
    const int block = rest % segment.blocks;
    rest /= segment.blocks;
    // Heads before ranges, late ranges first: they are the long ones.
    const int range = segment.ranges - 1 - rest / w.heads;
    item.head = rest % w.heads;
    item.first_in_list = segment.first_in_list;
    item.first_row = block * block_pairs;
    item.pairs = segment.rows * w.group;
    item.slot = segment.first_slot + range * segment.rows;
    item.tokens = segment.tokens;
    const int begin = w.cuts.Begin(segment.first_range + range),
              end = min(w.cuts.Begin(segment.first_range + range + 1), segment.tokens);
    item.first_page = static_cast<int>(w.kv.held_count(begin / kPageTokens));
    item.tiles = static_cast<int>(w.kv.held_count((end + kPageTokens - 1) / kPageTokens)) - item.first_page;
    table = w.kv.tables + segment.table * w.kv.table_stride;
    return item;
  }
  // Bytes from the pages' memory to tile t of the item.
  __device__ __forceinline__ int64_t PageAt(const RowsItem& item, int t) const {
    int id = item.first_page + t, in_id = 0;
    if (w.kv.slots > 1) in_id = id % w.kv.num_slots, id = id / w.kv.num_slots;
    return item.head * w.kv.head_stride + __ldg(table + id) * w.kv.id_stride() + in_id * w.kv.page.page_bytes();
  }
};

template <int kHeadDim, typename Shape>
__device__ __forceinline__ void FetchRowsTiles(const RowsWork& w, const RowsBarriers<Shape>& barriers,
                                               const RowsShared& shared) {
  const int lane = threadIdx.x % 32;
  Ring<Shape::kKStages> k_ring;
  Ring<Shape::kVStages> v_ring;
  Ring<Shape::kRawStages> raw_ring;
  Ring<2> item_ring;
  uint32_t cleared = 0;
  // Keys or values of a bf16 page; of the latter, rows past the end become zeros, because 0 * NaN is not 0.
  auto fetch_k = [&](int row) {
    BarrierWait(barriers.KEmpty(k_ring.stage), k_ring.phase ^ 1);
    if (lane == 0) {
      BarrierArriveExpect(barriers.KFull(k_ring.stage), Shape::kTileBytes);
      CopyBox3(shared.k + k_ring.stage * Shape::kTileBytes, &w.pages, 0, row, 0, barriers.KFull(k_ring.stage));
    }
    k_ring.Next();
  };
  auto fetch_v = [&](int row, int valid) {
    const uint32_t to = shared.v + v_ring.stage * Shape::kTileBytes;
    BarrierWait(barriers.VEmpty(v_ring.stage), v_ring.phase ^ 1);
    const uint32_t full = valid < kTileKeys ? barriers.Cleared() : barriers.VFull(v_ring.stage);
    if (lane == 0) {
      BarrierArriveExpect(full, Shape::kTileBytes);
      CopyBox3(to, &w.pages, 0, row, 0, full);
    }
    if (valid < kTileKeys) {
      BarrierWait(full, cleared);
      cleared ^= 1;
      for (int i = lane; i < Shape::kHalves * kTileKeys * 8; i += 32) {
        if (i / 8 % kTileKeys >= valid) StoreShared16(to + i * 16, {});
      }
      SharedStoresFence();
      __syncwarp();
      if (lane == 0) BarrierArrive(barriers.VFull(v_ring.stage));
    }
    v_ring.Next();
  };
  auto fetch_codes = [&](int64_t page, int is_v) {
    BarrierWait(barriers.RawEmpty(raw_ring.stage), raw_ring.phase ^ 1);
    if (lane == 0) {
      const uint32_t to = shared.raw + raw_ring.stage * Shape::kRawBytes, full = barriers.RawFull(raw_ring.stage);
      const uint8_t* from = w.kv.base + page;
      BarrierArriveExpect(full, Shape::kRawBytes);
      CopyBytes(to, from + is_v * Shape::kCodeBytes, Shape::kCodeBytes, full);
      CopyBytes(to + Shape::kCodeBytes, from + 2 * Shape::kCodeBytes + is_v * Shape::kParamBytes, Shape::kParamBytes,
                full);
    }
    raw_ring.Next();
  };
  for (RowsDraw draw(w, Shape::kQRows);;) {
    BarrierWait(barriers.ItemEmpty(item_ring.stage), item_ring.phase ^ 1);
    const RowsItem item = draw.Next();
    if (lane == 0) {
      shared.items[item_ring.stage] = item;
      BarrierArrive(barriers.ItemFull(item_ring.stage));
    }
    item_ring.Next();
    if (item.done()) return;
    int64_t page = item.tiles > 0 ? draw.PageAt(item, 0) : 0;
    for (int t = 0; t < item.tiles; ++t) {
      const int64_t next = t + 1 < item.tiles ? draw.PageAt(item, t + 1) : 0;
      if constexpr (Shape::kCoded) {
        fetch_codes(page, 0);
        fetch_codes(page, 1);
      } else {
        const int row = static_cast<int>(page / (kHeadDim * sizeof(bf16)));
        fetch_k(row);
        fetch_v(row + kTileKeys, item.tokens - PositionOf(w.kv, item.first_page + t));
      }
      page = next;
    }
  }
}

// Eight bf16 of a query as the tiles want them.
template <KvFormat kFormat>
__device__ __forceinline__ uint4 QueryPiece(const uint4& x) {
  const auto as_f16 = [](uint32_t pair) {
    const auto within = [](float q) { return fminf(fmaxf(q, -65504.0f), 65504.0f); };
    return PackF16(within(LowBf16(pair)), within(HighBf16(pair)));
  };
  const uint4 y = {as_f16(x.x), as_f16(x.y), as_f16(x.z), as_f16(x.w)};
  if constexpr (kFormat != KvFormat::kInt4) return y;
  return {__byte_perm(y.x, y.z, 0x5410), __byte_perm(y.x, y.z, 0x7632), __byte_perm(y.y, y.w, 0x5410),
          __byte_perm(y.y, y.w, 0x7632)};
}

// `thread` of 96.
template <KvFormat kFormat, int kHeadDim, typename Shape>
__device__ __forceinline__ void FetchRowsQueries(const RowsWork& w, const RowsBarriers<Shape>& barriers,
                                                 const RowsShared& shared, int thread) {
  constexpr int kPieces = kHeadDim / 8;
  Ring<2> item_ring;
  uint32_t q_phase = 1;
  while (true) {
    BarrierWait(barriers.ItemFull(item_ring.stage), item_ring.phase);
    const RowsItem item = shared.items[item_ring.stage];
    __syncwarp();
    if (thread % 32 == 0) BarrierArrive(barriers.ItemEmpty(item_ring.stage));
    item_ring.Next();
    if (item.done()) return;
    BarrierWait(barriers.QEmpty(), q_phase);
    q_phase ^= 1;
#pragma unroll 4
    for (int i = thread; i < Shape::kQRows * kPieces; i += 96) {
      const int row = i / kPieces, piece = i % kPieces, pair = item.first_row + row;
      const bool valid = pair < item.pairs;
      const bf16* from = w.q;
      if (valid) {
        from += __ldg(w.plan.list + item.first_in_list + pair / w.group) * w.q_stride +
                (item.head * w.group + pair % w.group) * kHeadDim + piece * 8;
      }
      const uint32_t to = shared.q + piece / 8 * (Shape::kQRows * 128) + row * 128 + ((piece % 8) ^ (row % 8)) * 16;
      if constexpr (Shape::kCoded) {
        StoreShared16(to, valid ? QueryPiece<kFormat>(__ldg(reinterpret_cast<const uint4*>(from))) : uint4{});
      } else {
        CopyAsync16(to, from, valid);
      }
    }
    QueriesCopied(barriers);
  }
}
#endif

}  // namespace duo::cuda
