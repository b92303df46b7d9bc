#include "launcher/bench/simulated_rank.h"

#include <algorithm>
#include <cstring>
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

// Its own block alone arrives.
void SimulatedRank::AllToAll(void* out, std::span<const int64_t> out_bytes, const void* in,
                             std::span<const int64_t> in_bytes, Device& device) {
  if (in_bytes[0] > 0) device.Copy(out, in, std::min(out_bytes[0], in_bytes[0]));
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
