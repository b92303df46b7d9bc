#include "runtime/scheduler/chunk_time.h"

#include <algorithm>

namespace duo {

double ChunkTime::Predict(int64_t rows, int64_t history) const {
  const double pairs = static_cast<double>(rows) * (static_cast<double>(history) + 0.5 * static_cast<double>(rows));
  return scale_ * (static_cast<double>(rows) * per_token_ + pairs * per_pair_);
}

void ChunkTime::Measured(int64_t rows, int64_t history, double seconds) {
  const double predicted = Predict(rows, history);
  if (predicted > 0) scale_ *= 0.5 + 0.5 * std::clamp(seconds / predicted, 0.01, 100.0);
}

int64_t ChunkTime::RowsWithin(double seconds, int64_t rows, int64_t history) const {
  if (Predict(rows, history) <= seconds) return rows;
  int64_t shorter = kFewestRows;
  while (2 * shorter < rows && Predict(2 * shorter, history) <= seconds) shorter *= 2;
  return std::min(rows, shorter);
}

}  // namespace duo
