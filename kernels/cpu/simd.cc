#include "kernels/cpu/simd.h"

namespace duo::cpu {

int SupportedSimd(const SimdKernels* tables[3]) {
  int count = 0;
#ifdef DUO_X86_SIMD
  __builtin_cpu_init();
  // F16C has come with every AVX2 processor; clang 14 cannot ask for it.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    tables[count++] = &kAvx512Kernels;
  }
  if (avx2) tables[count++] = &kAvx2Kernels;
#endif
  tables[count++] = &kGenericKernels;
  return count;
}

const SimdKernels& Simd() {
  static const SimdKernels* const best = [] {
    const SimdKernels* tables[3];
    SupportedSimd(tables);
    return tables[0];
  }();
  return *best;
}

}  // namespace duo::cpu
