#include "kernels/cpu/machine_rates.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "kernels/base/buffer.h"
#include "kernels/cpu/simd.h"

namespace duo {
namespace {

constexpr double kSeconds = 0.25;

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The best rate of several goes in kSeconds: `go` returns how much it did.
template <typename Go>
double BestRate(const Go& go) {
  double best = 0;
  for (double begin = Now(); Now() - begin < kSeconds;) {
    const double start = Now(), work = go();
    best = std::max(best, work / (Now() - start));
  }
  return best;
}

}  // namespace

double MeasureFmaRate(Device& device) {
  DUO_CHECK(!device.is_cuda());
  const int threads = device.pool().threads();
  std::vector<double> work(threads);
  return BestRate([&] {
    device.pool().ParallelFor(threads, [&](int64_t item, int) {
      // Some 20 ms, so that clocks that differ between processors do not matter.
      float sink[3] = {0.999f, 0.001f, 0.0f};
      work[item] = cpu::Simd().multiply_add_rounds(8000000, sink);
    });
    double total = 0;
    for (double w : work) total += w;
    return total;
  });
}

double MeasureReadBandwidth(Device& device) {
  DUO_CHECK(!device.is_cuda());
  constexpr int64_t kPieceFloats = 1 << 18;  // 1 MiB: handed out in order, like the rows of a weight
  const int64_t bytes = std::min<int64_t>(int64_t{1} << 30, device.FreeMemory() / 4);
  const int64_t pieces = std::max<int64_t>(1, bytes / int64_t{kPieceFloats * sizeof(float)});
  auto buffer = Buffer::Allocate(device, pieces * kPieceFloats * sizeof(float), "the memory benchmark");
  DUO_CHECK(buffer.ok());
  float* x = buffer->as<float>();
  std::vector<float> sums(pieces);
  device.pool().ParallelFor(pieces, [&](int64_t p, int) { std::fill_n(x + p * kPieceFloats, kPieceFloats, 1.0f); });
  return BestRate([&] {
    device.pool().ParallelFor(pieces,
                              [&](int64_t p, int) { sums[p] = cpu::Simd().read(x + p * kPieceFloats, kPieceFloats); });
    for (float s : sums) DUO_CHECK_EQ(s, static_cast<float>(kPieceFloats));
    return static_cast<double>(pieces * kPieceFloats * sizeof(float));
  });
}

}  // namespace duo
