// What the benchmarks of kernel_bench.h share: device memory for one benchmark, random activations, and timing.
#pragma once

#include <functional>
#include <random>
#include <vector>

#include "kernels/base/buffer.h"
#include "kernels/base/device.h"

namespace duo {

constexpr int64_t kRotation = int64_t{256} << 20;  // bytes that one round of calls touches: past any L2
// Relative to the largest value of a row; 16-bit probabilities and outputs err by about 2^-8 of it, averaged over keys.
constexpr double kAllowed = 0.02;

struct Memory {
  std::vector<Buffer> buffers;
  absl::Status status;  // of the first allocation that failed
  void* Take(Device& device, size_t bytes);
};

// Median seconds of one call. On CUDA calls are recorded and replayed, so that launches do not count; `capture` = false
// for calls that a graph cannot hold.
double Time(Device& device, int calls, bool capture, const std::function<void(int)>& call);
// Calls of a round for work that takes `floor` seconds.
int Calls(double floor);

// Fills `bytes` at `to` with copies of its first `pattern` bytes.
void Repeat(Device& device, void* to, int64_t pattern, int64_t bytes);

std::vector<float> Normal(std::mt19937& rng, size_t count);
// x in an activation type; x itself becomes the rounded values.
std::vector<uint8_t> ToActivations(DType type, std::vector<float>& x);
float Activation(DType type, const std::vector<uint8_t>& bytes, size_t i);

}  // namespace duo
