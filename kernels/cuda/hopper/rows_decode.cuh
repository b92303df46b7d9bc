// rows_work.cuh: the warp group that turns a page's codes to f16 tiles in shared memory.
#pragma once

#include "kernels/cuda/hopper/rows_work.cuh"

namespace duo::cuda {

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ __forceinline__ uint32_t FmaF16(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t x;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(x) : "r"(a), "r"(b), "r"(c));
  return x;
}
__device__ __forceinline__ uint32_t AddF16(uint32_t a, uint32_t b) {
  uint32_t x;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(x) : "r"(a), "r"(b));
  return x;
}
__device__ __forceinline__ uint32_t MultiplyF16(uint32_t a, uint32_t b) {
  uint32_t x;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(x) : "r"(a), "r"(b));
  return x;
}
// The values of two e4m3 codes.
__device__ __forceinline__ uint32_t F8Pair(uint32_t codes) {
  uint32_t x;
  asm("{ .reg .b16 h; cvt.u16.u32 h, %1; cvt.rn.f16x2.e4m3x2 %0, h; }" : "=r"(x) : "r"(codes));
  return x;
}

// How a vector's codes become f16 pairs: code * scale + min, rounded once. The scale of a vector that reaches beyond
// f16's range is so much smaller that it does not.
template <KvFormat kFormat>
struct CodeValues {
  uint32_t scale, scale_16th, min;  // each twice

  __device__ __forceinline__ explicit CodeValues(uint32_t params) {
    constexpr float kHighest = 65504, kSteps = kFormat == KvFormat::kInt4 ? 15 : kFormat == KvFormat::kInt8 ? 255 : 448;
    const float lowest = kFormat == KvFormat::kFp8 ? 0.0f : F16Value(params >> 16), step = F16Value(params);
    const float most = (kHighest - lowest) / kSteps, within = step > most ? most : step;
    scale = PackF16(within, within);
    scale_16th = PackF16(within / 16, within / 16);
    min = PackF16(lowest, lowest);
  }
  // Eight values of the words at w, in the order of their places.
  __device__ __forceinline__ uint4 Eight(const uint32_t* w) const {
    if constexpr (kFormat == KvFormat::kInt4) {
      // 1,024 + the code, or + 16 times the code.
      const uint32_t above = w[0] >> 8, k1024 = 0x64006400u, minus = 0xe400e400u;
      return {FmaF16(AddF16((w[0] & 0x000f000fu) | k1024, minus), scale, min),
              FmaF16(AddF16((w[0] & 0x00f000f0u) | k1024, minus), scale_16th, min),
              FmaF16(AddF16((above & 0x000f000fu) | k1024, minus), scale, min),
              FmaF16(AddF16((above & 0x00f000f0u) | k1024, minus), scale_16th, min)};
    } else if constexpr (kFormat == KvFormat::kInt8) {
      const uint32_t k1024 = 0x64646464u, minus = 0xe400e400u;
      return {FmaF16(AddF16(__byte_perm(w[0], k1024, 0x4140), minus), scale, min),
              FmaF16(AddF16(__byte_perm(w[0], k1024, 0x4342), minus), scale, min),
              FmaF16(AddF16(__byte_perm(w[1], k1024, 0x4140), minus), scale, min),
              FmaF16(AddF16(__byte_perm(w[1], k1024, 0x4342), minus), scale, min)};
    } else {
      return {MultiplyF16(F8Pair(w[0]), scale), MultiplyF16(F8Pair(w[0] >> 16), scale),
              MultiplyF16(F8Pair(w[1]), scale), MultiplyF16(F8Pair(w[1] >> 16), scale)};
    }
  }
};

// One token's vector of raw codes at `codes` -> row `key` of the tile at `to`.
template <KvFormat kFormat, int kHeadDim>
__device__ __forceinline__ void DecodeVector(uint32_t codes, uint32_t params_at, uint32_t to, int key) {
  constexpr int kBytes = KvCodeBytes(kFormat, kHeadDim), kChunks = kBytes / 16;
  constexpr int kPieces = kHeadDim / 8 / kChunks;  // of eight values, in a chunk of 16 bytes
  constexpr int kWords = 4 / kPieces;              // of codes in a piece
  static_assert(kChunks <= 8);
  // Neighbours begin with different chunks, so that eight lanes meet all banks, with codes and with values.
  const int turn = key % 8 / (8 / kChunks), swizzle = key % 8;
  constexpr int kAtOnce = kChunks < 4 ? kChunks : 4;  // chunks in registers
  const CodeValues<kFormat> values(LoadShared<KvParamBytes(kFormat)>(params_at + key * KvParamBytes(kFormat)));
#pragma unroll
  for (int first = 0; first < kChunks; first += kAtOnce) {
    uint4 raw[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      raw[i] = LoadShared16(codes + key * kBytes + (first + i + turn) % kChunks * 16);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int chunk = (first + i + turn) % kChunks;
      const uint32_t words[4] = {raw[i].x, raw[i].y, raw[i].z, raw[i].w};
#pragma unroll
      for (int j = 0; j < kPieces; ++j) {
        const int piece = chunk * kPieces + j;
        StoreShared16(to + piece / 8 * (kTileKeys * 128) + key * 128 + ((piece % 8) ^ swizzle) * 16,
                      values.Eight(words + j * kWords));
      }
    }
  }
}

// Vector `thread` of 128 of the stage at which `ring` stands -> the tile at `to`; gives the stage back. 0 * NaN is not
// 0: vectors past the end (valid is false) become zeros.
template <KvFormat kFormat, int kHeadDim, typename Shape>
__device__ __forceinline__ void DecodeStage(const RowsBarriers<Shape>& barriers, const RowsShared& shared,
                                            const Ring<Shape::kRawStages>& ring, uint32_t to, bool valid, int thread) {
  const uint32_t from = shared.raw + ring.stage * Shape::kRawBytes;
  BarrierWait(barriers.RawFull(ring.stage), ring.phase);
  if (valid) {
    DecodeVector<kFormat, kHeadDim>(from, from + Shape::kCodeBytes, to, thread);
  } else {
    for (int i = 0; i < kHeadDim / 8; ++i) {
      StoreShared16(to + i / 8 * (kTileKeys * 128) + thread * 128 + i % 8 * 16, {});
    }
  }
  SharedStoresFence();
  __syncwarp();
  if (thread % 32 == 0) BarrierArrive(barriers.RawEmpty(ring.stage));
}

// `thread` of 128, one a key.
template <KvFormat kFormat, int kHeadDim, typename Shape>
__device__ __forceinline__ void DecodeRowsTiles(const RowsWork& w, const RowsBarriers<Shape>& barriers,
                                                const RowsShared& shared, int thread) {
  const int lane = thread % 32;
  Ring<Shape::kKStages> k_ring;
  Ring<Shape::kVStages> v_ring;
  Ring<Shape::kRawStages> raw_ring;
  Ring<2> item_ring;
  auto decode = [&](uint32_t to, bool valid, uint32_t full) {
    DecodeStage<kFormat, kHeadDim>(barriers, shared, raw_ring, to, valid, thread);
    if (lane == 0) BarrierArrive(full);
    raw_ring.Next();
  };
  while (true) {
    BarrierWait(barriers.ItemFull(item_ring.stage), item_ring.phase);
    const RowsItem item = shared.items[item_ring.stage];
    __syncwarp();
    if (lane == 0) BarrierArrive(barriers.ItemEmpty(item_ring.stage));
    item_ring.Next();
    if (item.done()) return;
    for (int t = 0; t < item.tiles; ++t) {
      BarrierWait(barriers.KEmpty(k_ring.stage), k_ring.phase ^ 1);
      decode(shared.k + k_ring.stage * Shape::kTileBytes, true, barriers.KFull(k_ring.stage));
      k_ring.Next();
      if constexpr (Shape::kOwnValues) {
        raw_ring.Next();
        continue;
      }
      const bool valid = PositionOf(w.kv, item.first_page + t) + thread < item.tokens;
      BarrierWait(barriers.VEmpty(v_ring.stage), v_ring.phase ^ 1);
      decode(shared.v + v_ring.stage * Shape::kTileBytes, valid, barriers.VFull(v_ring.stage));
      v_ring.Next();
    }
  }
}
#endif

}  // namespace duo::cuda
