#include "launcher/bench/kernel_bench_parts.h"

#include <algorithm>
#include <cstring>

#include "kernels/base/seconds.h"

namespace duo {

void* Memory::Take(Device& device, size_t bytes) {
  auto buffer = Buffer::Allocate(device, std::max<size_t>(bytes, 256), "benchmark");
  if (!buffer.ok()) {
    status.Update(buffer.status());
    return nullptr;
  }
  buffers.push_back(std::move(*buffer));
  return buffers.back().data();
}

double Time(Device& device, int calls, bool capture, const std::function<void(int)>& call) {
  auto round = [&] {
    for (int i = 0; i < calls; ++i) call(i);
  };
  round();
  device.Synchronize();
  DeviceGraph graph;
  if (device.is_cuda() && capture) graph = device.Capture(round);
  std::vector<double> times;
  for (int i = 0; i < 7; ++i) {
    const Clock::time_point start = Clock::now();
    if (graph.valid()) {
      device.Launch(graph);
    } else {
      round();
    }
    device.Synchronize();
    times.push_back(SecondsSince(start) / calls);
  }
  std::nth_element(times.begin(), times.begin() + 3, times.end());
  return times[3];
}

void Repeat(Device& device, void* to, int64_t pattern, int64_t bytes) {
  auto* at = static_cast<uint8_t*>(to);
  for (int64_t done = pattern; done < bytes; done *= 2) device.Copy(at + done, at, std::min(done, bytes - done));
}

std::vector<float> Normal(std::mt19937& rng, size_t count) {
  std::normal_distribution<float> normal;
  std::vector<float> x(count);
  for (float& v : x) v = normal(rng);
  return x;
}
std::vector<uint8_t> ToActivations(DType type, std::vector<float>& x) {
  std::vector<uint8_t> bytes(Bytes(type, x.size()));
  for (size_t i = 0; i < x.size(); ++i) {
    if (type == DType::kBF16) {
      const bf16 b = ToBf16(x[i]);
      x[i] = ToFloat(b);
      std::memcpy(&bytes[2 * i], &b, 2);
    } else {
      std::memcpy(&bytes[4 * i], &x[i], 4);
    }
  }
  return bytes;
}
float Activation(DType type, const std::vector<uint8_t>& bytes, size_t i) {
  float x;
  if (type == DType::kBF16) {
    bf16 b;
    std::memcpy(&b, &bytes[2 * i], 2);
    return ToFloat(b);
  }
  std::memcpy(&x, &bytes[4 * i], 4);
  return x;
}

int Calls(double floor) { return static_cast<int>(std::clamp(2e-3 / floor, 4.0, 64.0)); }

}  // namespace duo
