// Whole numbers in whole pieces, one source for host and device code. Operands are not negative and small enough for
// a + b - 1 to fit their common type, which is also the result's. Pure functions, thread-safe.
#pragma once

#include "kernels/base/dtype.h"

namespace duo {

// How many pieces of b cover a.
template <typename A, typename B>
DUO_HD constexpr auto CeilDiv(A a, B b) {
  return (a + b - 1) / b;
}

// The least multiple of b that is not below a.
template <typename A, typename B>
DUO_HD constexpr auto RoundUp(A a, B b) {
  return CeilDiv(a, b) * b;
}

}  // namespace duo
