// What a check's warp groups (check_groups.cuh) are made of: their shared memory, their products, and matrices between
// registers and shared memory.
#pragma once

#include "kernels/cuda/attention/decode_staged.cuh"

namespace duo::cuda {

// Memory, behind the stages: probabilities of two turns, what outputs are rescaled by, queries, and the merge's.
template <KvFormat kFormat, int kHeadDim>
struct GroupShape {
  using Stage = StageShape<kFormat, kHeadDim>;
  static constexpr int kGroups = Stage::kWarps / 4, kN = 4, kCols = 8 * kN;
  static_assert(kFormat == KvFormat::kInt4 && kHeadDim == 128 && Stage::kWarps == 8);
  static constexpr int kStages = 2;
  static constexpr int kStageBytes = Stage::kWarps * kStages * Stage::kBytes;
  // Of a warp: 16 tokens' rows of 128 bytes, the columns of a tile in 64 of them.
  static constexpr int kPBytes = 16 * 128;
  static constexpr int kPAt = (kStageBytes + 1023) / 1024 * 1024;
  static constexpr int kQAt = kPAt + 2 * Stage::kWarps * kPBytes;               // [64 channels][column] of 128 bytes
  static constexpr int kFactorsAt = kQAt + 2 * 128 * kCols;                     // [turn][warp][column]
  static constexpr int kRaisedAt = kFactorsAt + 2 * Stage::kWarps * kCols * 4;  // [turn][warp]
  static constexpr int kQSumsAt = kRaisedAt + 2 * Stage::kWarps * 4;            // [column]
  static constexpr int kSumsAt = kQSumsAt + kCols * 4;                          // tops, sums, offsets: [warp][column]
  static constexpr int kOutAt = (kSumsAt + 3 * Stage::kWarps * kCols * 4 + 127) / 128 * 128;  // [column][channel]
  static constexpr int kBarriersAt = kOutAt + kCols * kHeadDim * 4;
  static constexpr int kSharedBytes = kBarriersAt + Stage::kWarps * kStages * 8;
  static_assert(kSharedBytes <= 227 * 1024);
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

// c [64 x 32] (+)= a [64 x 16] * b, a in registers.
template <RowsAlong kAlong>
__device__ __forceinline__ void GroupProduct(float (&c)[4][4], const uint32_t* a, uint64_t b, int add) {
  asm volatile(
      "{ .reg .pred add; setp.ne.b32 add, %22, 0; wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
      "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15}, {%16,%17,%18,%19}, %20, add, 1, 1, %21; }"
      : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]),
        "+f"(c[1][3]), "+f"(c[2][0]), "+f"(c[2][1]), "+f"(c[2][2]), "+f"(c[2][3]), "+f"(c[3][0]), "+f"(c[3][1]),
        "+f"(c[3][2]), "+f"(c[3][3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kAlong == RowsAlong::kN ? 1 : 0), "r"(add));
}

// Four 8 x 8 matrices of 16-bit elements: lane 8 i + r gives row r of the i-th. Transposed: lane (g, c) gets elements
// (2 c, g) and (2 c + 1, g).
__device__ __forceinline__ void LoadTransposed(uint32_t (&x)[4], uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(row)
               : "memory");
}
// And to memory: lane (g, c) has elements (g, 2 c) and (g, 2 c + 1).
__device__ __forceinline__ void StoreMatrices(uint32_t row, const uint32_t (&x)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(x[0]), "r"(x[1]),
               "r"(x[2]), "r"(x[3])
               : "memory");
}
#endif

}  // namespace duo::cuda
