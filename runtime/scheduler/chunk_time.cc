#include "runtime/scheduler/chunk_time.h"

#include <algorithm>

namespace duo {

int ChunkTime::Counted::part() const {
  const double all = dense + attention;
  return all > 0 ? std::min(kParts - 1, static_cast<int>(kParts * attention / all)) : 0;
}

ChunkTime::Counted ChunkTime::Count(int64_t rows, int64_t history, Riders riders) const {
  const double pairs = static_cast<double>(rows) * (static_cast<double>(history) + 0.5 * static_cast<double>(rows));
  const double ridden = rider_factor_ * static_cast<double>(riders.tokens);
  return {static_cast<double>(rows + riders.rows) * per_token_, (pairs + ridden) * per_pair_};
}

double ChunkTime::Scale(int part) const {
  for (int distance = 0; distance < kParts; ++distance) {
    for (const int near : {part - distance, part + distance}) {
      if (near >= 0 && near < kParts && scales_[near] > 0) return scales_[near];
    }
  }
  return 1;
}

double ChunkTime::Predict(int64_t rows, int64_t history, Riders riders) const {
  const Counted counted = Count(rows, history, riders);
  return Scale(counted.part()) * (counted.dense + counted.attention);
}

double ChunkTime::PredictText(int64_t tokens, int64_t history) const {
  constexpr int64_t kPieces = 32;
  double seconds = 0;
  for (int64_t i = 0; i < kPieces; ++i) {
    const int64_t begin = tokens * i / kPieces, end = tokens * (i + 1) / kPieces;
    seconds += Predict(end - begin, history + begin);
  }
  return seconds;
}

void ChunkTime::Measured(int64_t rows, int64_t history, double seconds, Riders riders) {
  const double predicted = Predict(rows, history, riders);
  if (!(predicted > 0)) return;
  const int part = Count(rows, history, riders).part();
  scales_[part] = Scale(part) * (0.5 + 0.5 * std::clamp(seconds / predicted, 0.01, 100.0));
}

int64_t ChunkTime::RowsWithin(double seconds, int64_t rows, int64_t history) const {
  if (Predict(rows, history) <= seconds) return rows;
  int64_t shorter = kFewestRows;
  while (2 * shorter < rows && Predict(2 * shorter, history) <= seconds) shorter *= 2;
  return std::min(rows, shorter);
}

int64_t ChunkTime::RowsBeside(Riders riders, double seconds, int64_t rows, int64_t history) const {
  if (Predict(rows, history, riders) <= seconds) return rows;
  int64_t shorter = kFewestBeside;
  for (int64_t power = kFewestBeside; power < rows; power *= 2) {
    for (const int64_t next : {power, power + power / 2}) {
      if (Predict(next, history, riders) <= seconds) shorter = next;
    }
  }
  return std::min(rows, shorter);
}

}  // namespace duo
