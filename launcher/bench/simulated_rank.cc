#include "launcher/bench/simulated_rank.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>

#include "kernels/base/check.h"
#include "kernels/clock.h"

namespace duo {

SimulatedRank::SimulatedRank(int world, int layers, Device& device) : world_(world) {
  absl::StatusOr<Buffer> stamps = Buffer::Allocate(device, sizeof(int64_t) * (1 + 2 * layers), "the clock's readings");
  DUO_CHECK_MSG(stamps.ok(), std::string(stamps.status().message()));
  stamps_ = std::move(*stamps);
  device.Fill(stamps_.data(), 0, stamps_.size());
}

void SimulatedRank::AllReduceSum(View, Device& device) {
  if (stamps_.size() == 0) return;
  StampClock(device, stamps_.as<int64_t>() + next_);
  next_ = (next_ + 1) % static_cast<int64_t>(stamps_.size() / sizeof(int64_t));
}

void SimulatedRank::AllGather(void* out, const void* in, size_t bytes, Device& device) {
  auto* place = static_cast<uint8_t*>(out);
  if (place != in) device.Copy(place, in, bytes);
  device.Fill(place + bytes, 0xC2, bytes * (world_ - 1));  // as f32 -97: no share of a softmax
}

void SimulatedRank::AllGatherHost(void* out, const void* in, size_t bytes) {
  for (int r = 0; r < world_; ++r) std::memcpy(static_cast<char*>(out) + r * bytes, in, bytes);
}

// What it sends arrives in the place of what others would send, over and over: numbers of a step's own sizes, where
// whatever lay in memory may be such that arithmetic on it is slow.
void SimulatedRank::AllToAll(void* out, std::span<const int64_t> out_bytes, const void* in,
                             std::span<const int64_t> in_bytes, Device& device) {
  const int64_t sent = std::accumulate(in_bytes.begin(), in_bytes.end(), int64_t{0});
  const int64_t got = std::accumulate(out_bytes.begin(), out_bytes.end(), int64_t{0});
  auto* to = static_cast<uint8_t*>(out);
  if (sent == 0 && got > 0) device.Fill(to, 0, got);
  for (int64_t at = 0; sent > 0 && at < got; at += sent) device.Copy(to + at, in, std::min(sent, got - at));
}

std::unique_ptr<Communicator> SimulatedRank::Split(int) {
  return std::unique_ptr<Communicator>(new SimulatedRank(world_));
}

void SimulatedRank::Abort(std::string_view message) { CheckFailed(__FILE__, __LINE__, std::string(message)); }

std::vector<LayerTime> SimulatedRank::LayerTimes(Device& device) const {
  std::vector<int64_t> stamps(stamps_.size() / sizeof(int64_t));
  device.Download(stamps.data(), stamps_.data(), stamps_.size());
  std::vector<LayerTime> times(stamps.size() / 2);
  for (size_t l = 0; l < times.size(); ++l) {
    times[l].attention = 1e-9 * static_cast<double>(stamps[2 * l + 1] - stamps[2 * l]);
    times[l].feed_forward = 1e-9 * static_cast<double>(stamps[2 * l + 2] - stamps[2 * l + 1]);
  }
  return times;
}

}  // namespace duo
