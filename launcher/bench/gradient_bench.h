// Benchmarks of the ops of kernels/backward.h at a model's shape: what one layer of one step of `duo identify` runs.
// Every row is verified on samples against f64 first, then timed and set against its floor (BenchRates).
// told: of the kinds of ops that are timed. Allocates and frees its own memory; fails when it does not fit.
#pragma once

#include <functional>
#include <vector>

#include "kernels/backward.h"
#include "launcher/bench/kernel_bench.h"

namespace duo {

struct GradientBench {
  HeadShape heads = {128, 4, 8};
  int64_t hidden = 4096;
  int64_t intermediate = 14336;
  int64_t tokens = 32768;
  WindowMask mask = {128, 256, 0};
};
// Attention floors count the pairs that see each other, 4 head_dim FLOP each forward and 10 backward; those of linear
// layers their products; the others' the bytes that they read and write.
absl::StatusOr<std::vector<BenchRow>> BenchGradientOps(Device& device, const GradientBench& bench,
                                                       const BenchRates& rates = {},
                                                       const std::function<void(int done, int total)>& told = {});

}  // namespace duo
