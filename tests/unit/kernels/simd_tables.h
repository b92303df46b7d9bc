// The instruction sets that this processor has, for tests that take each in turn.
#pragma once

#include <vector>

#include "kernels/cpu/simd.h"

namespace duo::cpu {

inline std::vector<const SimdKernels*> Tables() {
  const SimdKernels* tables[3];
  const int count = SupportedSimd(tables);
  return {tables, tables + count};
}

}  // namespace duo::cpu
