// Communicator: how the ranks of one run exchange data. The only virtual class of the project, because only start-up
// knows whether there is one rank (self), several over host memory (mpi) or one GPU each (nccl).
//
// There are two kinds of exchange, and every rank must make the same calls in the same order:
// - Device memory (AllReduceSum, AllGather, AllToAll), ordered with the device's stream. On nccl these calls
//   are asynchronous, and recordable into a DeviceGraph where capturable(); on mpi they synchronise the stream, stage
//   through host memory and return when the exchange is done, so that several ranks can share one GPU.
// - Host memory (Broadcast, AllGatherHost, Barrier), for plans and sizes. These return when this rank's part is done.
// One thread at a time. Failures of MPI and NCCL are CHECKs; a peer that dies ends this process with one error line
// that names the peer (mpi_session.h). A communicator must not outlive its session or its device.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/device.h"
#include "kernels/base/view.h"

namespace duo {

class MpiSession;

// What follows a sum in a layer: residual += sum, and where `out` is not empty out = residual / rms(residual) * weight,
// as AddRmsNorm (kernels/ops.h). Device memory; rows 16-byte aligned, as arenas give them.
struct ResidualNorm {
  View out;                       // bf16 [rows, hidden] or empty
  View residual;                  // f32 [rows, hidden]
  const float* weight = nullptr;  // [hidden]
  float eps = 0;
};

// How to wait for a peer: polling hot at first, because the next step usually follows within a few milliseconds, then
// resting between looks, because a server may be idle for hours (at most 2 % of a core, tested).
struct Wait {
  double hot_seconds = 0.005;
  // After this long without an answer: Abort, naming the silent rank; 0 = wait for ever. Peers whose process the
  // session watches are not timed: one that lives is only busy.
  double timeout_seconds = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // data: device memory, dense, f32 or bf16; becomes the sum over all ranks, the same bytes everywhere.
  // mpi, and small messages of auto between the GPUs of a host: f32 sums in rank order, rounded once, so the result
  // does not depend on timing. nccl: in NCCL's own order.
  virtual void AllReduceSum(View data, Device& device) = 0;
  // AllReduceSum(data) and then what `norm` says, to the same bits, in one kernel; data [rows, hidden], bf16, is then
  // not defined. False where this communicator has no such kernel for this shape, and nothing was done: the same on all
  // ranks.
  virtual bool AllReduceAddNorm(View /*data*/, const ResidualNorm& /*norm*/, Device& /*device*/) { return false; }
  // in: device, `bytes` of this rank. out: device, [size()][bytes] in rank order; in may be out + rank() * bytes.
  virtual void AllGather(void* out, const void* in, size_t bytes, Device& device) = 0;
  // Every rank sends a block to every rank: in [size()] blocks, block r for rank r, of in_bytes[r]; out [size()]
  // blocks, block r from rank r, of out_bytes[r], which is what rank r says of this one. Device memory, blocks one
  // after the other; out and in do not overlap. A block may be empty, and of any length.
  virtual void AllToAll(void* out, std::span<const int64_t> out_bytes, const void* in,
                        std::span<const int64_t> in_bytes, Device& device) = 0;
  // Whether AllReduceSum and AllGather may be called inside Device::Capture.
  virtual bool capturable() const = 0;

  // data: host, `bytes` on every rank; root's bytes reach all.
  virtual void Broadcast(void* data, size_t bytes, int root, const Wait& wait) = 0;
  void Broadcast(void* data, size_t bytes, int root) { Broadcast(data, bytes, root, Wait{}); }
  // in: host, `bytes` of this rank. out: host, [size()][bytes] in rank order; in must not lie in out.
  virtual void AllGatherHost(void* out, const void* in, size_t bytes) = 0;
  virtual void Barrier(const Wait& wait) = 0;
  void Barrier() { Barrier(Wait{}); }

  // The ranks that give the same group, among themselves, in the order that they have here. Collective; must not
  // outlive this one.
  virtual std::unique_ptr<Communicator> Split(int group) = 0;

  // Ends the whole job: one "error: " line on stderr, exit code 1.
  [[noreturn]] virtual void Abort(std::string_view message) = 0;
};

enum class CommKind { kAuto, kMpi, kNccl };
absl::StatusOr<CommKind> ParseCommKind(std::string_view name);  // "auto", "mpi", "nccl"

std::unique_ptr<Communicator> MakeSelfCommunicator();
// Stands for one rank of many on devices that only measure; exchanges nothing.
std::unique_ptr<Communicator> MakeMeasuringCommunicator(int rank, int size);

// session: null for a plain single process, which never starts MPI. With one rank always self. auto: nccl on CUDA where
// this program was built with it, on one host with small messages through the GPUs' memory (peer_memory.h), else mpi.
// Fails when nccl is asked for and cannot be had. Collective: every rank must call it with the same kind.
absl::StatusOr<std::unique_ptr<Communicator>> MakeCommunicator(CommKind kind, MpiSession* session, Device& device);

// Between the same ranks, over MPI and host memory alone: for what must be agreed on before devices are. Collective.
std::unique_ptr<Communicator> MakeHostCommunicator(MpiSession& session);

// The GPU of this rank: one each among the ranks of a host; with `mpi` they may share. Fails, naming --comm mpi, when
// this host has more ranks than GPUs.
absl::StatusOr<int> LocalGpu(CommKind kind, const MpiSession* session, int gpus);

// --- Rank 0 leads, the others follow: messages of any length, with heartbeats while there is nothing to say.

constexpr double kHeartbeatSeconds = 5;  // how often an idle leader should send one
constexpr double kSilenceSeconds = 30;   // how long a follower believes in a silent leader, and the reverse

// Rank 0: sends `message` (not empty) to all; one collective when it is short.
void SendMessage(Communicator& comm, const std::vector<uint8_t>& message);
// Rank 0: shows that it lives and checks that the followers do.
void SendHeartbeat(Communicator& comm);
// Others: waits for the next message, answering heartbeats. Aborts after kSilenceSeconds without either.
std::vector<uint8_t> ReceiveMessage(Communicator& comm);

// Every rank gives its own status; all return OK, or the first failing rank's error, led by "rank N on HOST: " unless N
// is 0.
absl::Status Agree(Communicator& comm, const absl::Status& status);

}  // namespace duo
