// The numbers that a table's 4-bit codes stand for (CodeTable in ops.h), looked up in registers: a table is 16 signed
// bytes, which byte permutations pick four at a time. e2m1's numbers are halves, so its table holds them doubled.
#pragma once

#include "kernels/cuda/primitives.cuh"
#include "kernels/ops.h"

namespace duo::cuda {

// What a number of the table, as bytes hold it, stands for one of.
template <CodeTable kTable>
constexpr float kTableUnit = kTable == CodeTable::kE2M1 ? 0.5f : 1.0f;

// The numbers of the four codes in the low half of a word, in their order, as signed bytes.
template <CodeTable kTable>
__device__ __forceinline__ uint32_t FourNumbers(uint32_t codes) {
  static_assert(kTable != CodeTable::kNone);
  constexpr bool kIq4 = kTable == CodeTable::kIq4;
  constexpr uint32_t k0 = kIq4 ? 0xbfad9881u : 0x03020100u, k4 = kIq4 ? 0xf6eaddcfu : 0x0c080604u;
  constexpr uint32_t k8 = kIq4 ? 0x26190d01u : 0xfdfeff00u, k12 = kIq4 ? 0x71594535u : 0xf4f8fafcu;
  const uint32_t in_half = codes & 0x7777u;  // a selector's highest bit would spread the byte's sign
  const uint32_t low = __byte_perm(k0, k4, in_half), high = __byte_perm(k8, k12, in_half);
  return __byte_perm(low, high, (codes >> 1 & 0x4444u) | 0x3210u);
}

// Bytes picked by the nibbles of `selector`: by one above 7 the sign of the byte that it would be without its highest
// bit, eight times (__byte_perm has no such signs).
__device__ __forceinline__ uint32_t PickSigned(uint32_t a, uint32_t b, uint32_t selector) {
  uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(selector));
  return r;
}

// The numbers of eight codes as two sums of four bytes each: number = a + b. Half as much work as FourNumbers, for a
// tensor core adds them up as well: codes of the other half of the table pick signs, which are 0 or -1, and those that
// are -1 are made good in the number beside.
struct NumberSums {
  uint32_t a[2], b[2];  // of codes 0-3 and 4-7
};
template <CodeTable kTable>
__device__ __forceinline__ NumberSums EightNumbers(uint32_t codes) {
  static_assert(kTable != CodeTable::kNone);
  constexpr bool kIq4 = kTable == CodeTable::kIq4;
  // IQ4's low half is below 0, its high half, one more here, above. e2m1's low half is one more but for its 0.
  constexpr uint32_t k0 = kIq4 ? 0xbfad9881u : 0x04030200u, k4 = kIq4 ? 0xf6eaddcfu : 0x0d090705u;
  constexpr uint32_t k8 = kIq4 ? 0x271a0e02u : 0xfdfeff00u, k12 = kIq4 ? 0x725a4636u : 0xf4f8fafcu;
  const uint32_t turned = codes ^ 0x88888888u;
  return {{PickSigned(k0, k4, codes), PickSigned(k0, k4, codes >> 16)},
          {PickSigned(k8, k12, turned), PickSigned(k8, k12, turned >> 16)}};
}

// 2^(exponent - 127), the smallest of them included; e2m1's scale.
__device__ __forceinline__ float PowerOf(uint32_t exponent) {
  return __uint_as_float(exponent == 0 ? 0x00400000u : exponent << 23);
}

// One code's number.
__device__ __forceinline__ float TableNumber(CodeTable table, uint32_t code) {
  if (table == CodeTable::kE2M1) return Int8Value(FourNumbers<CodeTable::kE2M1>(code), 0) * 0.5f;
  return Int8Value(FourNumbers<CodeTable::kIq4>(code), 0);
}

}  // namespace duo::cuda
