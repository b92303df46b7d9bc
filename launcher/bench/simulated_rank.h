// SimulatedRank: the communicator of one rank of a world whose other ranks are not there. Collectives give back what
// this rank put in and cost nothing, so that one rank's share of the work can be timed alone. Results are not those of
// the model; only times mean anything.
#pragma once

#include <cstring>

#include "kernels/base/check.h"
#include "parallel/communicator.h"

namespace duo {

class SimulatedRank : public Communicator {
 public:
  explicit SimulatedRank(int world) : world_(world) {}
  int rank() const override { return 0; }  // Engine's act_as_rank says whose heads these are
  int size() const override { return world_; }
  void AllReduceSum(View, Device&) override {}
  void AllGather(void* out, const void* in, size_t bytes, Device& device) override {
    for (int r = 0; r < world_; ++r) {
      char* place = static_cast<char*>(out) + r * bytes;
      if (place != in) device.Copy(place, in, bytes);
    }
  }
  bool capturable() const override { return true; }
  void Broadcast(void*, size_t, int, const Wait&) override {}
  void AllGatherHost(void* out, const void* in, size_t bytes) override {
    for (int r = 0; r < world_; ++r) std::memcpy(static_cast<char*>(out) + r * bytes, in, bytes);
  }
  void Barrier(const Wait&) override {}
  [[noreturn]] void Abort(std::string_view message) override { CheckFailed(__FILE__, __LINE__, std::string(message)); }

 private:
  int world_;
};

}  // namespace duo
