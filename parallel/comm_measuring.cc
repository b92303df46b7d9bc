#include "kernels/base/check.h"
#include "parallel/communicator.h"

namespace duo {
namespace {

// One of many ranks, for devices that measure: there is no other rank, and nothing to exchange.
class MeasuringCommunicator final : public Communicator {
 public:
  MeasuringCommunicator(int rank, int size) : rank_(rank), size_(size) {}
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void AllReduceSum(View, Device& device) override { DUO_CHECK(device.measuring()); }
  void AllGather(void*, const void*, size_t, Device& device) override { DUO_CHECK(device.measuring()); }
  void AllToAll(void*, std::span<const int64_t>, const void*, std::span<const int64_t>, Device& device) override {
    DUO_CHECK(device.measuring());
  }
  using Communicator::Barrier;
  using Communicator::Broadcast;
  bool capturable() const override { return false; }
  void Broadcast(void*, size_t, int, const Wait&) override { Abort("a rank that measures has no others to talk to"); }
  void AllGatherHost(void*, const void*, size_t) override { Abort("a rank that measures has no others to talk to"); }
  void Barrier(const Wait&) override { Abort("a rank that measures has no others to talk to"); }
  std::unique_ptr<Communicator> Split(int) override { Abort("a rank that measures has no others to talk to"); }
  [[noreturn]] void Abort(std::string_view message) override { CheckFailed(__FILE__, __LINE__, std::string(message)); }

 private:
  int rank_, size_;
};

}  // namespace

std::unique_ptr<Communicator> MakeMeasuringCommunicator(int rank, int size) {
  return std::make_unique<MeasuringCommunicator>(rank, size);
}

}  // namespace duo
