// What the row-wise ops share: handing rows out to threads, and sums along a row.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/base/device.h"
#include "kernels/base/math.h"

namespace duo::cpu {

// body(row) for every row, `rows_per_item` of them in one work item.
template <typename Body>
void ForRows(Device& device, int64_t rows, int64_t rows_per_item, const Body& body) {
  device.pool().ParallelFor(CeilDiv(rows, rows_per_item), [&](int64_t item, int) {
    for (int64_t r = item * rows_per_item, end = std::min(rows, r + rows_per_item); r < end; ++r) body(r);
  });
}
constexpr int64_t kRowsPerItem = 16;
template <typename Body>
void ForRows(Device& device, int64_t rows, const Body& body) {
  ForRows(device, rows, kRowsPerItem, body);
}

// The sum of term(i): in f64, as kSums independent sums that can be vectorised without changing the result.
template <int kSums, typename Term>
double SumOf(int64_t count, const Term& term) {
  double sums[kSums] = {};
  int64_t i = 0;
  for (; i + kSums <= count; i += kSums) {
    for (int k = 0; k < kSums; ++k) sums[k] += term(i + k);
  }
  for (; i < count; ++i) sums[0] += term(i);
  double sum = 0;
  for (double s : sums) sum += s;
  return sum;
}

}  // namespace duo::cpu
