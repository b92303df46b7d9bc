// Device-side building blocks shared by the kernels: tensor-core products, asynchronous copies, maxima over warps; bf16
// pairs and warp sums are bf16_pairs.cuh's.
// Fragment layouts are those of the PTX manual's mma.m16n8k16 for 16-bit types. sm_80 and newer.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/base/bf16_pairs.cuh"
#include "kernels/base/dtype.h"

namespace duo::cuda {

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Two f32 to an f16 pair, `low` in the low half; round to nearest even.
__device__ __forceinline__ uint32_t PackF16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
// The f16 in the low half, by the hardware's conversion (dtype.h's is for host and device, and slower).
__device__ __forceinline__ float F16Value(uint32_t bits) {
  float x;
  asm("{ .reg .b16 h; cvt.u16.u32 h, %1; cvt.f32.f16 %0, h; }" : "=f"(x) : "r"(bits & 0xffffu));
  return x;
}

// c [16 x 8] f32 += a [16 x 16] * b [16 x 8], bf16.
__device__ __forceinline__ void Mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                    uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// The same, f16.
__device__ __forceinline__ void MmaF16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                       uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// c [16 x 8] s32 += a [16 x 32] * b [32 x 8]; a signed or unsigned bytes, b signed ones. Four of a row in a register.
__device__ __forceinline__ void MmaS8(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                      uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
// Of 16 k's: a0 and a1 are outputs g and g + 8.
__device__ __forceinline__ void MmaS8Short(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(b0));
}
__device__ __forceinline__ void MmaU8S8(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                        uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// The transpose of the 8 x 8 matrix of 16-bit elements that a warp holds, one row of pairs per four lanes.
__device__ __forceinline__ uint32_t Transpose8x8(uint32_t x) {
  uint32_t y;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
__device__ __forceinline__ void LoadMatrix4(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
__device__ __forceinline__ void LoadMatrix4Transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

// The address of a 16-byte piece of a row of kCols 16-bit elements in shared memory, swizzled so that ldmatrix meets no
// bank twice.
template <int kCols>
__device__ __forceinline__ uint32_t Swizzled(uint32_t base, int row, int piece) {
  return base + row * (kCols * 2) + ((piece ^ (row & 7)) * 16);
}

// 16 bytes from global to shared memory; zeros when !valid.
__device__ __forceinline__ void CopyAsync16(uint32_t shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void CopyAsyncCommit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void CopyAsyncWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// kBytes (4, 8 or 16) of data that is read once, past the L1.
template <int kBytes>
__device__ __forceinline__ void LoadStreaming(uint32_t* r, const void* p) {
  if constexpr (kBytes == 16) {
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "l"(p));
  } else if constexpr (kBytes == 8) {
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v2.u32 {%0,%1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "l"(p));
  } else {
    static_assert(kBytes == 4);
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.u32 %0, [%1];" : "=r"(r[0]) : "l"(p));
  }
}

__device__ __forceinline__ float Silu(float x) { return x / (1.0f + expf(-x)); }

__device__ __forceinline__ float WarpMax(float x) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lanes));
  return x;
}
__device__ __forceinline__ float WarpMin(float x) { return -WarpMax(-x); }

// ---- Codes to bf16 pairs. Each takes codes sitting in the 16-bit halves of a word and gives one bf16 pair. ----

// The signed byte `i` of a word. By arithmetic, which takes a quarter of the time that a conversion takes.
__device__ __forceinline__ float Int8Value(uint32_t word, int i) {
  constexpr uint32_t kUnit = 0x4b000000;  // 2^23, whose last bit counts 1
  return __uint_as_float(__byte_perm(word ^ 0x80808080u, kUnit, 0x7540 + i)) - (0x1p23f + 128);
}

// Two bf16 less 136 each: exact for the integers 128 to 143, which become -8 to 7.
__device__ __forceinline__ uint32_t Minus136(uint32_t pair) {
  uint32_t out;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(out) : "r"(pair), "r"(0x3f803f80u), "r"(0xc308c308u));
  return out;
}

// Nibbles (bits 0-3 of each half) -> 128 + code, exactly. One instruction, which the compiler makes two of: it has room
// for one constant, and the other has to be in a register.
__device__ __forceinline__ uint32_t NibblesPlus128(uint32_t x) {
  uint32_t r;
  asm("lop3.b32 %0, %1, 0x000f000f, %2, 0xea;" : "=r"(r) : "r"(x), "r"(0x43004300u));  // (x & mask) | exponent
  return r;
}

// Bytes (bits 0-7 of each half) -> code - 128, exactly: (128 + low seven bits) - (top bit ? 128 : 256).
__device__ __forceinline__ uint32_t BytesMinus128(uint32_t x) {
  const uint32_t low = (x & 0x007f007fu) | 0x43004300u;   // 128 + low
  const uint32_t bias = (x & 0x00800080u) ^ 0xc380c380u;  // -256, or -128 with the top bit
  __nv_bfloat162 r =
      __hadd2(*reinterpret_cast<const __nv_bfloat162*>(&low), *reinterpret_cast<const __nv_bfloat162*>(&bias));
  return *reinterpret_cast<uint32_t*>(&r);
}

// e4m3 in bits 8-15 of each half -> the value times 2^-120 (bf16's exponent bias less e4m3's), exactly.
constexpr float kF8Rebias = 1.329227995784916e36f;  // 2^120
__device__ __forceinline__ uint32_t F8HighBytes(uint32_t x) { return ((x >> 4) & 0x07f007f0u) | (x & 0x80008000u); }

}  // namespace duo::cuda
