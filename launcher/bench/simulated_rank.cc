#include "launcher/bench/simulated_rank.h"

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
