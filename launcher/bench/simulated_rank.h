// SimulatedRank: the communicator of one rank of a world whose other ranks are not there, so that one rank's share of
// the work can be timed alone. Sums give back what this rank put in; of split heads this rank's piece alone counts, as
// the others' lse read very low. So results are this share's and not the model's; only times mean anything.
//
// Every all-reduce but the first ends half a layer, so they are where the device's clock is read: LayerTimes. The ends
// cost about what a small message costs, a launch; no time passes in them for the other ranks.
// One thread. The device must outlive it.
#pragma once

#include <vector>

#include "kernels/base/buffer.h"
#include "parallel/communicator.h"

namespace duo {

struct LayerTime {
  double attention = 0, feed_forward = 0;  // seconds
};

class SimulatedRank : public Communicator {
 public:
  // layers: of the model that will run.
  SimulatedRank(int world, int layers, Device& device);

  int rank() const override { return 0; }  // ProbeOptions::act_as_rank says whose heads these are
  int size() const override { return world_; }
  void AllReduceSum(View, Device& device) override;
  void AllGather(void* out, const void* in, size_t bytes, Device& device) override;
  void AllToAll(void* out, std::span<const int64_t> out_bytes, const void* in, std::span<const int64_t> in_bytes,
                Device& device) override;
  bool capturable() const override { return true; }
  void Broadcast(void*, size_t, int, const Wait&) override {}
  void AllGatherHost(void* out, const void* in, size_t bytes) override;
  void Barrier(const Wait&) override {}
  std::unique_ptr<Communicator> Split(int group) override;  // all ranks are on one host: the same again
  [[noreturn]] void Abort(std::string_view message) override;

  // Of the step before, which must have ended. With one rank there is no all-reduce: zeros.
  std::vector<LayerTime> LayerTimes(Device& device) const;

 private:
  explicit SimulatedRank(int world) : world_(world) {}  // whose clock is another's

  int world_;
  Buffer stamps_;     // device int64 [1 + 2 layers]: nanoseconds at the embedding's sum, then at each half layer's end
  int64_t next_ = 0;  // of stamps
};

}  // namespace duo
