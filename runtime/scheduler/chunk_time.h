// ChunkTime: how long a prefill chunk will take, by the operations it counts and the time that chunks before it took,
// and so how many rows keep a step within a number of seconds.
// Plain value; not thread-safe.
#pragma once

#include <cstdint>

namespace duo {

// Rows of other sequences that ride in a chunk's step.
struct Riders {
  int64_t rows = 0;
  int64_t tokens = 0;  // that they attend to, all together
};

class ChunkTime {
 public:
  // The shortest chunk that is cut: below it a step reads the weights for too few rows.
  static constexpr int64_t kFewestRows = 128;
  // And beside answers that are being written, which read the weights anyway.
  static constexpr int64_t kFewestBeside = 32;

  struct Rates {
    double flop_per_token = 0;       // dense work of one row
    double flop_per_token_pair = 0;  // attention of one row to one token of history
    double flop_rate = 1;            // FLOP/s, a guess until the first chunk is measured
    // How much longer a row that rides takes for a token than a chunk's row does: it has the token's keys and values
    // read for itself alone.
    double rider_factor = 1;
  };
  explicit ChunkTime(const Rates& rates)
      : per_token_(rates.flop_per_token / rates.flop_rate),
        per_pair_(rates.flop_per_token_pair / rates.flop_rate),
        rider_factor_(rates.rider_factor) {}

  // Seconds for `rows` rows behind `history` tokens, in one step.
  double Predict(int64_t rows, int64_t history, Riders riders = {}) const;
  // A chunk took `seconds`: half of what the prediction was off is made up for.
  void Measured(int64_t rows, int64_t history, double seconds, Riders riders = {});

  // For so many tokens in steps of any length.
  double PredictText(int64_t tokens, int64_t history) const;

  // `rows` if they are predicted to take at most `seconds`, else the largest power of two that is (few shapes for the
  // kernels to be planned for), and at least kFewestRows.
  int64_t RowsWithin(double seconds, int64_t rows, int64_t history) const;
  // The same beside answers: in finer steps, and at least kFewestBeside.
  int64_t RowsBeside(Riders riders, double seconds, int64_t rows, int64_t history) const;

 private:
  // Measured over counted seconds differ between dense work and attention, so they are kept by the part of a step that
  // is attention. A part that has not been seen yet is taken to be as the nearest that has.
  static constexpr int kParts = 16;
  struct Counted {
    double dense = 0, attention = 0;  // seconds, at the guessed rate
    int part() const;
  };
  Counted Count(int64_t rows, int64_t history, Riders riders) const;
  double Scale(int part) const;

  double per_token_, per_pair_, rider_factor_;
  double scales_[kParts] = {};  // 0: not seen yet
};

}  // namespace duo
