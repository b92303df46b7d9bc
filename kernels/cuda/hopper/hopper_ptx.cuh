// Hopper's own instructions as functions: memory barriers that count bytes, tensor copies into shared memory, and
// products of a warp group with both or one operand in shared memory. Names and meanings are the PTX manual's
// (mbarrier, cp.async.bulk.tensor, wgmma, setmaxnreg). For kernels compiled for sm_90a.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/primitives.cuh"

namespace duo::cuda {

// ---- mbarrier. A barrier is 8 bytes of shared memory, named by its shared address. ----

__device__ __forceinline__ void BarrierInit(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
// Makes initialised barriers known to the copy engine.
__device__ __forceinline__ void BarrierInitFence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void BarrierArrive(uint32_t barrier) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.shared::cta.b64 state, [%0]; }" ::"r"(barrier) : "memory");
}
// Arrives, and lets the phase end only after so many bytes were copied as well.
__device__ __forceinline__ void BarrierArriveExpect(uint32_t barrier, uint32_t bytes) {
  asm volatile("{ .reg .b64 state; mbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1; }" ::"r"(barrier),
               "r"(bytes)
               : "memory");
}
// Waits until the phase of this parity has ended.
__device__ __forceinline__ void BarrierWait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra finished;\n"
      "bra again;\n"
      "finished:\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// Barriers of some threads of a block, by number (0 is __syncthreads).
__device__ __forceinline__ void NamedSync(int number, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
__device__ __forceinline__ void NamedArrive(int number, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// ---- Copies by the tensor engine ----

// A box of a tensor of three dimensions -> shared memory; the barrier counts its bytes.
__device__ __forceinline__ void CopyBox3(uint32_t shared, const CUtensorMap* map, int x, int y, int z,
                                         uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], "
      "[%5];" ::"r"(shared),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(x), "r"(y), "r"(z), "r"(barrier)
      : "memory");
}
// A box of a matrix likewise.
__device__ __forceinline__ void CopyBox2(uint32_t shared, const CUtensorMap* map, int x, int y, uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::
          "r"(shared),
      "l"(reinterpret_cast<uint64_t>(map)), "r"(x), "r"(y), "r"(barrier)
      : "memory");
}
// Contiguous bytes, a multiple of 16, 16-byte aligned.
__device__ __forceinline__ void CopyBytes(uint32_t shared, const void* global, uint32_t bytes, uint32_t barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
               "l"(reinterpret_cast<uint64_t>(global)), "r"(bytes), "r"(barrier)
               : "memory");
}
__device__ __forceinline__ void PrefetchMap(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(map)) : "memory");
}
// Ordinary stores to shared memory before this are seen by tensor cores and copies after it.
__device__ __forceinline__ void SharedStoresFence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Loads and stores by shared address.
template <int kBytes>
__device__ __forceinline__ uint32_t LoadShared(uint32_t at) {
  static_assert(kBytes == 2 || kBytes == 4);
  uint32_t x;
  if constexpr (kBytes == 4) {
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(x) : "r"(at) : "memory");
  } else {
    asm volatile("{ .reg .b16 h; ld.shared.u16 h, [%1]; cvt.u32.u16 %0, h; }" : "=r"(x) : "r"(at) : "memory");
  }
  return x;
}
__device__ __forceinline__ uint4 LoadShared16(uint32_t at) {
  uint4 x;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(at)
               : "memory");
  return x;
}
__device__ __forceinline__ void StoreShared16(uint32_t at, const uint4& x) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w) : "memory");
}

// ---- A cluster's blocks ----

__device__ __forceinline__ int ClusterRank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
// Waits for every thread of the cluster that has not ended; what they wrote to shared memory is seen.
__device__ __forceinline__ void ClusterSync() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
// Four floats of the shared memory of the cluster's block `rank`, at this block's address `at`.
__device__ __forceinline__ float4 LoadOfBlock(uint32_t at, int rank) {
  uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at), "r"(rank));
  float4 x;
  asm volatile("ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
               : "r"(there)
               : "memory");
  return x;
}

// ---- Products of a warp group ----

template <int kRegisters>
__device__ __forceinline__ void GrowRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void ShrinkRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

__device__ __forceinline__ void WgmmaFence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void WgmmaCommit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void WgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// Keeps the compiler from moving uses of registers that a product in flight reads or writes.
template <int kCount>
__device__ __forceinline__ void Pin(float (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(x[i])::"memory");
}
template <int kCount>
__device__ __forceinline__ void Pin(uint32_t (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(x[i])::"memory");
}

// How an operand of 64-column (128-byte) rows lies in shared memory, rows swizzled by 128 bytes in groups of eight:
// `stride` bytes from one group of eight rows to the next, `lead` from one block of 64 columns to the next where the
// columns are the operand's M or N side. `address` is a multiple of 16; the swizzle follows address bits.
__device__ __forceinline__ uint64_t Operand(uint32_t address, uint32_t stride, uint32_t lead) {
  return uint64_t{(address & 0x3ffff) >> 4} | uint64_t{lead >> 4} << 16 | uint64_t{stride >> 4} << 32 |
         uint64_t{1} << 62;
}
// An operand further on in the same memory.
__device__ __forceinline__ uint64_t Ahead(uint64_t operand, uint32_t bytes) {
  return (operand & 0xffffffff00000000) | (static_cast<uint32_t>(operand) + (bytes >> 4));
}
// What all lanes of a warp have alike, in a form that lets the compiler know it.
__device__ __forceinline__ int Uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }

#define DUO_F8(x, i)                                                                                          \
  "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3]), "+f"(x[i + 4]), "+f"(x[i + 5]), "+f"(x[i + 6]), \
      "+f"(x[i + 7])
#define DUO_F32(x, i) DUO_F8(x, i), DUO_F8(x, i + 8), DUO_F8(x, i + 16), DUO_F8(x, i + 24)
#define DUO_REGISTERS_32                                                                                            \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29," \
  "%30,%31}"
#define DUO_REGISTERS_64                                                                                             \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"  \
  "%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57," \
  "%58,%59,%60,%61,%62,%63}"

// The types of a product's operands.
enum class Half16 { kBF16, kF16 };

#define DUO_WGMMA_SHARED(type)                                                          \
  asm volatile(                                                                         \
      "{ .reg .pred add; setp.ne.b32 add, %66, 0; "                                     \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " " DUO_REGISTERS_64 \
      ", %64, %65, add, 1, 1, 0, 0; }"                                                  \
      : DUO_F32(c, 0), DUO_F32(c, 32)                                                   \
      : "l"(a), "l"(b), "n"(kAdd ? 1 : 0))
// c [64 x 2 * kCount] (+)= a [64 x 16] * b [2 * kCount x 16]^T, rows of both operands along k in shared memory.
template <bool kAdd, Half16 kType = Half16::kBF16>
__device__ __forceinline__ void WgmmaShared(float (&c)[64], uint64_t a, uint64_t b) {
  if constexpr (kType == Half16::kBF16) {
    DUO_WGMMA_SHARED("bf16");
  } else {
    DUO_WGMMA_SHARED("f16");
  }
}

// c [64 x 2 * kCount] += a [64 x 16] * b (add 0: =), a in registers; rows of b lie in shared memory along n,
// as values do, or along k, as keys do.
enum class RowsAlong { kN, kK };
#define DUO_WGMMA_REGISTERS_64(type)                                                    \
  asm volatile(                                                                         \
      "{ .reg .pred add; setp.ne.b32 add, %70, 0; "                                     \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " " DUO_REGISTERS_64 \
      ", {%64, %65, %66, %67}, %68, add, 1, 1, %69; }"                                  \
      : DUO_F32(c, 0), DUO_F32(c, 32)                                                   \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kAlong == RowsAlong::kN ? 1 : 0), "r"(add))
#define DUO_WGMMA_REGISTERS_32(type)                                                   \
  asm volatile(                                                                        \
      "{ .reg .pred add; setp.ne.b32 add, %38, 0; "                                    \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " " DUO_REGISTERS_32 \
      ", {%32, %33, %34, %35}, %36, add, 1, 1, %37; }"                                 \
      : DUO_F32(c, 0)                                                                  \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kAlong == RowsAlong::kN ? 1 : 0), "r"(add))
template <Half16 kType = Half16::kBF16, RowsAlong kAlong = RowsAlong::kN>
__device__ __forceinline__ void WgmmaRegisters(float (&c)[64], const uint32_t* a, uint64_t b, int add = 1) {
  if constexpr (kType == Half16::kBF16) {
    DUO_WGMMA_REGISTERS_64("bf16");
  } else {
    DUO_WGMMA_REGISTERS_64("f16");
  }
}
template <Half16 kType = Half16::kBF16, RowsAlong kAlong = RowsAlong::kN>
__device__ __forceinline__ void WgmmaRegisters(float (&c)[32], const uint32_t* a, uint64_t b, int add = 1) {
  if constexpr (kType == Half16::kBF16) {
    DUO_WGMMA_REGISTERS_32("bf16");
  } else {
    DUO_WGMMA_REGISTERS_32("f16");
  }
}

}  // namespace duo::cuda
