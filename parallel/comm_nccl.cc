// Collectives between GPUs over NCCL, on the device's stream, so they can be recorded into a graph with the step around
// them; small ones through peer_memory.h where it can be had. Host memory goes over MPI.
//
// Work on a stream that waits for a peer tells nobody: NCCL and the peers' memory are asked once a second
// (wait_watch.h).
#include <cuda_runtime.h>
#include <nccl.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <utility>

#include "kernels/base/check.h"
#include "parallel/comm_factories.h"
#include "parallel/peer_memory.h"
#include "parallel/wait_watch.h"

namespace duo {
namespace {

void Check(ncclResult_t result, const char* call) {
  DUO_CHECK_MSG(result == ncclSuccess, std::string(call) + ": " + ncclGetErrorString(result));
}

// NCCL as AsyncTrouble asks it.
struct AskedNccl {
  static constexpr ncclResult_t kSuccess = ncclSuccess, kInProgress = ncclInProgress;
  ncclComm_t comm;
  ncclResult_t AsyncError(ncclResult_t* told) const { return ncclCommGetAsyncError(comm, told); }
  static std::string Text(ncclResult_t code) { return ncclGetErrorString(code); }
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(MpiSession& session, Device& device, bool peer_memory) : host_(MakeMpiCommunicator(session)) {
    ncclUniqueId id{};
    if (rank() == 0) Check(ncclGetUniqueId(&id), "ncclGetUniqueId");
    host_->Broadcast(&id, sizeof(id), 0);
    DUO_CHECK_EQ(cudaSetDevice(device.ordinal()), cudaSuccess);
    Check(ncclCommInitRank(&comm_, size(), id, rank()), "ncclCommInitRank");
    if (peer_memory && session.local_size() == size()) peers_ = PeerMemory::Open(*host_, device);
    StartWatch();
  }
  // Of a part of another one's ranks.
  NcclCommunicator(std::unique_ptr<Communicator> host, ncclComm_t comm) : host_(std::move(host)), comm_(comm) {
    StartWatch();
  }
  ~NcclCommunicator() override {
    watch_.reset();
    peers_.reset();
    Check(ncclCommDestroy(comm_), "ncclCommDestroy");
  }
  void StartWatch() {
    const WaitWatch::Asked asked = {[nccl = AskedNccl{comm_}] { return AsyncTrouble(nccl); },
                                    [this] { return peers_ == nullptr ? -1 : peers_->silent_peer(); }};
    watch_ = std::make_unique<WaitWatch>(rank(), asked, [this](const std::string& wrong) { Abort(wrong); });
  }
  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  bool capturable() const override { return true; }
  [[noreturn]] void Abort(std::string_view message) override {
    host_->Abort(message);
    std::_Exit(1);
  }

  void AllReduceSum(View data, Device& device) override {
    DUO_CHECK(data.dtype == DType::kF32 || data.dtype == DType::kBF16);
    DUO_CHECK(data.rows <= 1 || data.stride == data.cols);
    if (peers_ != nullptr && peers_->Takes(Bytes(data.dtype, data.rows * data.cols))) {
      peers_->AllReduceSum(data);
      return;
    }
    Check(ncclAllReduce(data.data, data.data, data.rows * data.cols,
                        data.dtype == DType::kBF16 ? ncclBfloat16 : ncclFloat32, ncclSum, comm_, Stream(device)),
          "ncclAllReduce");
  }

  bool AllReduceAddNorm(View data, const ResidualNorm& norm, Device&) override {
    DUO_CHECK(data.rows <= 1 || data.stride == data.cols);
    return peers_ != nullptr && peers_->AllReduceAddNorm(data, norm);
  }

  void AllGather(void* out, const void* in, size_t bytes, Device& device) override {
    if (peers_ != nullptr && peers_->Takes(bytes)) {
      peers_->AllGather(out, in, bytes);
      return;
    }
    Check(ncclAllGather(in, out, bytes, ncclUint8, comm_, Stream(device)), "ncclAllGather");
  }

  void AllToAll(void* out, std::span<const int64_t> out_bytes, const void* in, std::span<const int64_t> in_bytes,
                Device& device) override {
    auto* to = static_cast<uint8_t*>(out);
    const auto* from = static_cast<const uint8_t*>(in);
    Check(ncclGroupStart(), "ncclGroupStart");
    for (int r = 0; r < size(); ++r) {
      if (in_bytes[r] > 0) Check(ncclSend(from, in_bytes[r], ncclUint8, r, comm_, Stream(device)), "ncclSend");
      if (out_bytes[r] > 0) Check(ncclRecv(to, out_bytes[r], ncclUint8, r, comm_, Stream(device)), "ncclRecv");
      from += in_bytes[r];
      to += out_bytes[r];
    }
    Check(ncclGroupEnd(), "ncclGroupEnd");
  }

  using Communicator::Barrier;
  using Communicator::Broadcast;
  void Broadcast(void* data, size_t bytes, int root, const Wait& wait) override {
    host_->Broadcast(data, bytes, root, wait);
  }
  void AllGatherHost(void* out, const void* in, size_t bytes) override { host_->AllGatherHost(out, in, bytes); }
  void Barrier(const Wait& wait) override { host_->Barrier(wait); }

  std::unique_ptr<Communicator> Split(int group) override {
    ncclComm_t part = nullptr;
    Check(ncclCommSplit(comm_, group, rank(), &part, nullptr), "ncclCommSplit");
    return std::make_unique<NcclCommunicator>(host_->Split(group), part);
  }

 private:
  static cudaStream_t Stream(Device& device) { return static_cast<cudaStream_t>(device.stream()); }

  std::unique_ptr<Communicator> host_;
  ncclComm_t comm_ = nullptr;
  std::unique_ptr<PeerMemory> peers_;  // null: everything goes over NCCL
  std::unique_ptr<WaitWatch> watch_;
};

}  // namespace

std::unique_ptr<Communicator> MakeNcclCommunicator(MpiSession& session, Device& device, bool peer_memory) {
  return std::make_unique<NcclCommunicator>(session, device, peer_memory);
}

}  // namespace duo
