// ChunkTime: how long a prefill chunk will take, by the operations it counts and the time that chunks before it took,
// and so how many rows keep a step within a number of seconds.
// Plain value; not thread-safe.
#pragma once

#include <cstdint>

namespace duo {

class ChunkTime {
 public:
  // The shortest chunk that is cut: below it a step reads the weights for too few rows.
  static constexpr int64_t kFewestRows = 128;

  // flop_per_token: dense work of one row. flop_per_token_pair: attention of one row to one token of history.
  // flop_rate: FLOP/s, a guess until the first chunk is measured.
  ChunkTime(double flop_per_token, double flop_per_token_pair, double flop_rate)
      : per_token_(flop_per_token / flop_rate), per_pair_(flop_per_token_pair / flop_rate) {}

  // Seconds for `rows` rows behind `history` tokens.
  double Predict(int64_t rows, int64_t history) const;
  // A chunk took `seconds`: half of what the prediction was off is made up for.
  void Measured(int64_t rows, int64_t history, double seconds);

  // `rows` if they are predicted to take at most `seconds`, else the largest power of two that is (few shapes for the
  // kernels to be planned for), and at least kFewestRows.
  int64_t RowsWithin(double seconds, int64_t rows, int64_t history) const;

 private:
  double per_token_, per_pair_;
  double scale_ = 1;  // measured over predicted seconds
};

}  // namespace duo
