// prefill_work.cuh: the warp groups that attend.
#pragma once

#include <type_traits>

#include "kernels/cuda/hopper/prefill_work.cuh"

namespace duo::cuda {

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

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

template <int kHeadDim, int kConsumers, bool kListed>
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
    const PrefillItem item = PrefillItem::Of<Shape::kRows, kListed>(w, index);

    int packed[2], token[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      packed[r] = item.row_block * Shape::kRows + consumer * 64 + warp * 16 + g + 8 * r;
      token[r] = w.first_row + packed[r] / w.group;
    }
    rows.Reset();
    auto scores = [&] {
      BeginScores<kHeadDim, kHalfQ>(rows.s, q_operand, k_shared + k_ring.stage * Shape::kTileBytes);
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
    const bool partial_page =
        !kListed && item.pages_end == w.pages_count && item.pages_end > 0 && w.last_tokens < kTileKeys;
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

}  // namespace duo::cuda
