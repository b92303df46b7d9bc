// GateOptimizer: Adam over the gates of `duo identify` (Kingma and Ba, arXiv 1412.6980; AdamW with weight decay 0, as
// DuoAttention's released code has it), with its schedule: the learning rate rises from a tenth to the whole over the
// first fifth of the steps and falls back to a tenth over the last. Gates start at 1 and stay in [0, 1].
// A plain value; its state is the whole of what a resumed run needs. Any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace duo {

// min(1, max((step + 1) / w, 0.1), max((steps - step) / w, 0.1)) with w = steps / 5, for step 0 .. steps - 1.
double ScheduleFactor(int step, int steps);

struct GateOptimizer {
  std::vector<double> gates;          // in [0, 1]
  std::vector<double> first, second;  // Adam's moments
  int step = 0;                       // steps taken

  explicit GateOptimizer(size_t count = 0) : gates(count, 1.0), first(count, 0.0), second(count, 0.0) {}
  bool operator==(const GateOptimizer&) const = default;

  void Step(const std::vector<double>& gradient, double rate);
};

}  // namespace duo
