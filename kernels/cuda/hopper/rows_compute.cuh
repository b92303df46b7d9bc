// rows_work.cuh: the two warp groups that attend.
#pragma once

#include "kernels/cuda/hopper/rows_decode.cuh"

namespace duo::cuda {

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

// The two rows of 64 that a thread has in an item's block.
struct RowsPairs {
  int pair[2], position[2];
  bool useful;  // has the warp any?

  __device__ __forceinline__ RowsPairs(const RowsWork& w, const RowsItem& item, int first_pair) {
    const int g = threadIdx.x % 32 / 4, warp = threadIdx.x / 32 % 4;
    useful = first_pair + 16 * warp < item.pairs;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      pair[r] = first_pair + warp * 16 + g + 8 * r;
      position[r] = INT32_MAX;
      if (pair[r] < item.pairs) {
        position[r] = __ldg(w.positions + __ldg(w.plan.list + item.first_in_list + pair[r] / w.group));
      }
    }
  }
  // Where a pair's partial result lies; pair < item.pairs.
  __device__ __forceinline__ int64_t PlaceOf(const RowsWork& w, const RowsItem& item, int r) const {
    return int64_t{item.slot + pair[r] / w.group} * (w.heads * w.group) + item.head * w.group + pair[r] % w.group;
  }
};

// Sums of a row over the four threads that have it.
template <int kHeadDim>
__device__ __forceinline__ void SumOfRows(const ScoreRows<kHeadDim>& rows, float (&sum)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] = rows.sum[r] + __shfl_xor_sync(0xffffffffu, rows.sum[r], 1);
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
  }
}

__device__ __forceinline__ float LseOf(float top, float sum, float scale, float lift) {
  return sum > 0 ? (top * scale + (log2f(sum) - lift)) * kLn2 : -INFINITY;
}

// The results of a group that computed its pairs alone.
template <KvFormat kFormat, int kHeadDim>
__device__ __forceinline__ void StoreRows(const RowsWork& w, const RowsItem& item, const RowsPairs& pairs,
                                          const ScoreRows<kHeadDim>& rows, float lift) {
  const int c = threadIdx.x % 4;
  float sum[2];
  SumOfRows(rows, sum);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (pairs.pair[r] >= item.pairs) continue;
    const int64_t at = pairs.PlaceOf(w, item, r);
    const float inverse = sum[r] > 0 ? 1.0f / sum[r] : 0.0f;
    if (c == 0) w.partial_lse[at] = LseOf(rows.top[r], sum[r], w.scale, lift);
    float* to = w.partial + at * kHeadDim;
#pragma unroll
    for (int j = 0; j < kHeadDim / 8; ++j) {
      StorePlaces<kFormat>(to + 8 * j, c,
                           make_float2(rows.o[4 * j + 2 * r] * inverse, rows.o[4 * j + 2 * r + 1] * inverse));
    }
  }
}

// The results of two groups that computed the same pairs over different pages, added up: the second tells the first,
// 64 channels at a time, in the place of the queries.
template <KvFormat kFormat, int kHeadDim>
__device__ __forceinline__ void StoreTogether(const RowsWork& w, const RowsItem& item, const RowsPairs& pairs,
                                              const ScoreRows<kHeadDim>& rows, float lift, int consumer,
                                              float* exchange) {
  constexpr int kTogether = 1;  // the barrier of both computing groups
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4, warp = threadIdx.x / 32 % 4;
  float sum[2], mine[2] = {1, 1}, other[2] = {};
  SumOfRows(rows, sum);
#pragma unroll
  for (int half = -1; half < kHeadDim / 64; ++half) {
    NamedSync(kTogether, 256);  // nobody needs the queries, or the half before, any more
    if (consumer == 1 && pairs.useful) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float* to = exchange + (warp * 16 + g + 8 * r) * 64 + 2 * c;
        if (half < 0) {
          if (c == 0) to[0] = rows.top[r], to[1] = sum[r];
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
    if (consumer == 0 && pairs.useful) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float* from = exchange + (warp * 16 + g + 8 * r) * 64;
        const bool valid = pairs.pair[r] < item.pairs;
        const int64_t at = pairs.PlaceOf(w, item, r);
        if (half < 0) {
          const float their_top = from[0], their_sum = from[1];
          const float highest = fmaxf(rows.top[r], their_top);
          if (highest != -INFINITY) {
            mine[r] = Exp2((rows.top[r] - highest) * w.scale);
            other[r] = Exp2((their_top - highest) * w.scale);
          }
          const float total = sum[r] * mine[r] + their_sum * other[r];
          const float inverse = total > 0 ? 1.0f / total : 0.0f;
          mine[r] *= inverse;
          other[r] *= inverse;
          if (valid && c == 0) w.partial_lse[at] = LseOf(highest, total, w.scale, lift);
          continue;
        }
        if (!valid) continue;
        float* to = w.partial + at * kHeadDim + half * 64;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float2 x = *reinterpret_cast<const float2*>(from + 2 * c + 8 * (j ^ g));
          StorePlaces<kFormat>(to + 8 * j, c,
                               make_float2(rows.o[(half * 8 + j) * 4 + 2 * r] * mine[r] + x.x * other[r],
                                           rows.o[(half * 8 + j) * 4 + 2 * r + 1] * mine[r] + x.y * other[r]));
        }
      }
    }
  }
}

template <KvFormat kFormat, int kHeadDim, typename Shape>
__device__ __forceinline__ void ComputeRows(const RowsWork& w, const RowsBarriers<Shape>& barriers,
                                            const RowsShared& shared, int consumer) {
  constexpr int kPairs = Shape::kQRows;
  constexpr uint32_t kHalfQ = Shape::kQRows * 128, kHalfTile = kTileKeys * 128;
  constexpr Half16 kType = Shape::kType;
  constexpr int kMine = 2;  // the barriers of one computing group each
  const int lane = threadIdx.x % 32, c = lane % 4;
  Ring<Shape::kKStages> k_ring;
  Ring<Shape::kVStages> v_ring;
  Ring<Shape::kRawStages> raw_ring;
  Ring<2> item_ring;
  uint32_t q_phase = 0;
  ScoreRows<kHeadDim> rows;
  auto release = [&](uint32_t barrier) {
    if (lane == 0) BarrierArrive(barrier);
  };
  auto release_k = [&] {
    release(barriers.KEmpty(k_ring.stage));
    k_ring.Next();
  };
  auto release_v = [&] {
    release(barriers.VEmpty(v_ring.stage));
    v_ring.Next();
  };
  auto wait_for_k = [&] { BarrierWait(barriers.KFull(k_ring.stage), k_ring.phase); };
  auto wait_for_v = [&] { BarrierWait(barriers.VFull(v_ring.stage), v_ring.phase); };
  while (true) {
    BarrierWait(barriers.ItemFull(item_ring.stage), item_ring.phase);
    const RowsItem item = shared.items[item_ring.stage];
    __syncwarp();
    release(barriers.ItemEmpty(item_ring.stage));
    item_ring.Next();
    if (item.done()) return;
    const bool apart = item.template apart<kPairs>();
    const RowsPairs pairs(w, item, item.first_row + (apart ? consumer * 64 : 0));
    const uint64_t q_operand = Operand(shared.q + (apart ? consumer * 64 * 128 : 0), 1024, 16);
    // Begin products with the tiles at which the rings stand.
    auto scores = [&] {
      BeginScores<kHeadDim, kHalfQ, kType>(rows.s, q_operand, shared.k + k_ring.stage * Shape::kTileBytes);
    };
    auto values = [&] {
      const uint64_t v_operand = Operand(shared.v + v_ring.stage * Shape::kTileBytes, 1024, kHalfTile);
      WgmmaFence();
#pragma unroll
      for (int step = 0; step < kTileKeys / 16; ++step) {
        WgmmaRegisters<kType>(rows.o, &rows.p[4 * step], Ahead(v_operand, step * 16 * 128));
      }
      WgmmaCommit();
    };
    rows.Reset();
#pragma unroll
    for (int i = 0; i < 32; ++i) rows.p[i] = 0;  // of a warp without rows, which takes part in products only
    BarrierWait(barriers.QFull(), q_phase);
    q_phase ^= 1;
    for (int t = 0; t < item.tiles; ++t) {
      const bool others = !apart && t % 2 != consumer;
      if (others && kPairs == 64) {
        k_ring.Next();
        v_ring.Next();
        raw_ring.Next();
        raw_ring.Next();
        continue;
      }
      wait_for_k();
      if (others) {  // seen, so that no phase of a barrier is missed
        release_k();
        wait_for_v();
        release_v();
        continue;
      }
      scores();
      if constexpr (Shape::kOwnValues) {
        NamedSync(kMine + consumer, 128);  // the group's last product has read the tile
        raw_ring.Next();
        const bool valid = PositionOf(w.kv, item.first_page + t) + static_cast<int>(threadIdx.x % 128) < item.tokens;
        DecodeStage<kFormat, kHeadDim>(barriers, shared, raw_ring, shared.v + v_ring.stage * Shape::kTileBytes, valid,
                                       threadIdx.x % 128);
        raw_ring.Next();
      }
      WgmmaWait<0>();
      Pin(rows.s);
      release_k();
      if (pairs.useful) {
        const int first = PositionOf(w.kv, item.first_page + t);
        const bool hidden = pairs.position[0] < first + kTileKeys - 1 || pairs.position[1] < first + kTileKeys - 1;
        if (__any_sync(0xffffffffu, hidden)) {
          const int low[2] = {0, 0}, high[2] = {pairs.position[0] - first, pairs.position[1] - first};
          rows.Mask(low, high, c);
        }
        float factor[2];
        rows.Softmax(w.scale, factor, Shape::kLift);
        rows.template Pack<kType>();
        rows.Rescale(factor);
      }
      if constexpr (Shape::kOwnValues) {
        NamedSync(kMine + consumer, 128);  // the tile is whole
      } else {
        wait_for_v();
      }
      values();
      WgmmaWait<0>();
      Pin(rows.o);
      if constexpr (Shape::kOwnValues) {
        v_ring.Next();
      } else {
        release_v();
      }
    }
    if (apart) {
      StoreRows<kFormat, kHeadDim>(w, item, pairs, rows, Shape::kLift);
    } else {
      float* exchange = reinterpret_cast<float*>(__cvta_shared_to_generic(shared.q));
      StoreTogether<kFormat, kHeadDim>(w, item, pairs, rows, Shape::kLift, consumer, exchange);
    }
    __syncwarp();
    release(barriers.QEmpty());
  }
}
#endif

}  // namespace duo::cuda
