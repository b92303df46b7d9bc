// PeerMemory: small messages between the GPUs of one host, written straight into each other's memory. Why: a decode
// step adds up a hidden state of a few KB twice a layer, and for so few bytes latency is all that counts. Every rank
// sends all that it has to every other, so messages are as small as lets this win: NCCL carries everything else.
//
// Every rank has an inbox that its peers map (CUDA IPC). A message travels in units of eight bytes, each half beside
// the number of its message (as in NCCL's LL protocol, arXiv 2507.04786): a receiver polls the data itself, so neither
// a flag nor a fence follows. Each unit is one thread's. Inboxes hold the last message and the one before; two are
// enough, because a rank that sends message n + 2 has seen every peer's n + 1, sent after that peer had read n.
// A wait that is too long (wait_watch.h) is said in the host's memory, where somebody must look, and goes on.
// The kernel's launch may overlap with the work before it, and the work after it may fetch weights meanwhile
// (programmatic dependent launch).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/base/buffer.h"
#include "kernels/base/device.h"
#include "kernels/base/view.h"
#include "parallel/communicator.h"

namespace duo {

// What a kernel that exchanges needs. Units [kCounted b, kCounted (b + 1)) of a message are one block's, which alone
// counts their messages.
struct PeerWires {
  void* const* inboxes;  // [ranks], each [2][ranks][units] of 16 bytes
  uint32_t* counts;      // [units / kCounted]
  int rank, ranks, units;
  int32_t* silent;  // in the host's memory
};

class PeerMemory {
 public:
  static constexpr int kCounted = 256;          // units that share a count of messages
  static constexpr size_t kMostSent = 1 << 20;  // bytes that a rank sends to all others together

  // Collective over `ranks`, which all run on this host. Null on every rank where one of them cannot map another's
  // memory: GPUs without a path between them, or hidden from one another.
  static std::unique_ptr<PeerMemory> Open(Communicator& ranks, Device& device);
  ~PeerMemory();  // collective: no rank may unmap what another still writes to
  PeerMemory(const PeerMemory&) = delete;
  PeerMemory& operator=(const PeerMemory&) = delete;

  // Whether peer memory takes a message of `bytes`: the same answer on every rank.
  bool Takes(size_t bytes) const { return bytes > 0 && bytes <= size_t{8} * units_ && bytes % 4 == 0; }

  // As Communicator's, on the device's stream, recordable; a message must be one that Takes accepts, and start on four
  // bytes. Sums are made in rank order in f32 and rounded once.
  void AllReduceSum(View data);
  void AllGather(void* out, const void* in, size_t bytes);
  // As Communicator's AllReduceAddNorm: false where a sum of this shape is not taken, the same on every rank.
  bool AllReduceAddNorm(View data, const ResidualNorm& norm);

  // The rank that a message has been waited for too long; -1: none. Any thread.
  int silent_peer() const { return *static_cast<const volatile int32_t*>(silent_) - 1; }

 private:
  PeerMemory(Communicator& ranks, Device& device) : ranks_(ranks), device_(device) {}

  // Of eight bytes, in a message of the largest size.
  static int UnitsFor(int ranks) { return static_cast<int>(kMostSent / (ranks - 1) / 8 / kCounted) * kCounted; }
  PeerWires wires() const;

  Communicator& ranks_;
  Device& device_;
  int units_ = 0;
  Buffer inbox_;                // [2][ranks][units_] of 16 bytes
  Buffer counts_;               // [units_ / kCounted] messages that a block has sent
  Buffer table_;                // [ranks] inboxes, as this rank maps them
  std::vector<void*> inboxes_;  // the same on the host; null: not mapped
  int32_t* silent_ = nullptr;   // in the host's memory, which the GPU sees: the silent rank + 1, or 0
};

}  // namespace duo
