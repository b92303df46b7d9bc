// Collectives over MPI: host memory, with the device's data staged through it. Sums are made here and not by
// MPI_Allreduce, whose order of additions may change with the message size and the ranks' timing.
#define OMPI_SKIP_MPICXX 1
#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <numeric>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/math.h"
#include "kernels/base/seconds.h"
#include "parallel/comm_factories.h"

namespace duo {
namespace {

constexpr int64_t kBlockElements = int64_t{1} << 20;  // of one sum: bounds the scratch
constexpr int64_t kSmallBytes = 64 << 10;             // up to here everybody gets everything and sums all of it
constexpr int64_t kGrain = 16384;                     // elements that a thread sums at a time
// The exchanges of a step: never rest, but yield the core, because ranks may share one (MPI's own blocking calls spin).
constexpr Wait kInStep{.hot_seconds = 1e9};
constexpr int kArriveTag = 1, kLeaveTag = 2, kBlockTag = 3;

// out[i] = sum over ranks, in rank order and f32, of parts[rank * stride + i].
template <typename T>
void SumRange(T* out, const T* parts, int ranks, int64_t stride, int64_t begin, int64_t end) {
  constexpr int kLanes = 256;
  float sum[kLanes];
  for (int64_t i = begin; i < end; i += kLanes) {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, end - i));
    for (int k = 0; k < n; ++k) sum[k] = ToFloat(parts[i + k]);
    for (int r = 1; r < ranks; ++r) {
      for (int k = 0; k < n; ++k) sum[k] += ToFloat(parts[r * stride + i + k]);
    }
    for (int k = 0; k < n; ++k) {
      if constexpr (sizeof(T) == 2) {
        out[i + k] = ToBf16(sum[k]);
      } else {
        out[i + k] = sum[k];
      }
    }
  }
}

template <typename T>
void Sum(void* out, const void* parts, int ranks, int64_t elements, ThreadPool& pool) {
  const int64_t grains = CeilDiv(elements, kGrain);
  const auto body = [&](int64_t grain, int) {
    SumRange(static_cast<T*>(out), static_cast<const T*>(parts), ranks, elements, grain * kGrain,
             std::min(elements, (grain + 1) * kGrain));
  };
  if (grains <= 1) {
    if (elements > 0) body(0, 0);
  } else {
    pool.ParallelFor(grains, body);
  }
}

class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MpiSession& session, size_t piece_bytes) : session_(session), piece_bytes_(piece_bytes) {
    Check(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
    KnowPeers();
  }
  MpiCommunicator(MpiSession& session, size_t piece_bytes, MPI_Comm comm)
      : session_(session), piece_bytes_(piece_bytes), comm_(comm) {
    KnowPeers();
  }
  ~MpiCommunicator() override { MPI_Comm_free(&comm_); }

  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(peers_.size()); }
  bool capturable() const override { return false; }
  [[noreturn]] void Abort(std::string_view message) override { session_.Abort(message); }

  void AllReduceSum(View data, Device& device) override {
    DUO_CHECK(data.dtype == DType::kF32 || data.dtype == DType::kBF16);
    DUO_CHECK(data.rows <= 1 || data.stride == data.cols);
    const int64_t elements = data.rows * data.cols;
    for (int64_t begin = 0; begin < elements; begin += kBlockElements) {
      const int64_t n = std::min(kBlockElements, elements - begin);
      const size_t bytes = Bytes(data.dtype, n);
      uint8_t* block = data.as<uint8_t>() + Bytes(data.dtype, begin);
      if (!device.is_cuda()) {
        SumBlock(block, data.dtype, n, device.pool());
        continue;
      }
      uint8_t* host = Scratch(staged_, bytes);
      device.Download(host, block, bytes);
      SumBlock(host, data.dtype, n, device.pool());
      device.Upload(block, host, bytes);
    }
  }

  void AllGather(void* out, const void* in, size_t bytes, Device& device) override {
    if (!device.is_cuda()) {
      Gather(out, in, bytes, kInStep);
      return;
    }
    uint8_t* host = Scratch(staged_, bytes * (size() + 1));
    device.Download(host + bytes * size(), in, bytes);
    Gather(host, host + bytes * size(), bytes, kInStep);
    device.Upload(out, host, bytes * size());
  }

  // Every block by messages of its own, in pieces: MPI counts the bytes of its collectives in ints, the places of their
  // blocks, too. Both ends of a block know its length, so ranks need not agree on the number of pieces.
  void AllToAll(void* out, std::span<const int64_t> out_bytes, const void* in, std::span<const int64_t> in_bytes,
                Device& device) override {
    const int64_t sent = std::accumulate(in_bytes.begin(), in_bytes.end(), int64_t{0});
    const int64_t got = std::accumulate(out_bytes.begin(), out_bytes.end(), int64_t{0});
    if (!device.is_cuda()) {
      ExchangeBlocks(static_cast<uint8_t*>(out), out_bytes, static_cast<const uint8_t*>(in), in_bytes);
      return;
    }
    uint8_t* host = Scratch(staged_, sent + got);
    if (sent > 0) device.Download(host, in, sent);
    ExchangeBlocks(host + sent, out_bytes, host, in_bytes);
    if (got > 0) device.Upload(out, host + sent, got);
  }

  using Communicator::Barrier;
  using Communicator::Broadcast;

  void Broadcast(void* data, size_t bytes, int root, const Wait& wait) override {
    for (size_t begin = 0; begin < bytes; begin += piece_bytes_) {
      MPI_Request request;
      Check(MPI_Ibcast(static_cast<uint8_t*>(data) + begin, static_cast<int>(std::min(piece_bytes_, bytes - begin)),
                       MPI_BYTE, root, comm_, &request),
            "MPI_Ibcast");
      Finish(request, wait, root);
    }
  }

  void AllGatherHost(void* out, const void* in, size_t bytes) override { Gather(out, in, bytes, Wait{}); }

  // By messages from and to rank 0, so that it knows who is missing.
  void Barrier(const Wait& wait) override {
    if (rank() == 0) {
      for (int r = 1; r < size(); ++r) Receive(r, kArriveTag, wait);
      for (int r = 1; r < size(); ++r) Send(r, kLeaveTag, wait);
    } else {
      Send(0, kArriveTag, wait);
      Receive(0, kLeaveTag, wait);
    }
  }

  std::unique_ptr<Communicator> Split(int group) override {
    MPI_Comm part = MPI_COMM_NULL;
    Check(MPI_Comm_split(comm_, group, rank(), &part), "MPI_Comm_split");
    return std::make_unique<MpiCommunicator>(session_, piece_bytes_, part);
  }

 private:
  void KnowPeers() {
    Check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    int ranks = 0;
    Check(MPI_Comm_size(comm_, &ranks), "MPI_Comm_size");
    Check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    peers_.resize(ranks);
    const int own = session_.rank();
    Check(MPI_Allgather(&own, 1, MPI_INT, peers_.data(), 1, MPI_INT, comm_), "MPI_Allgather");
  }

  void Check(int result, const char* call) {
    if (result == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING] = {};
    int length = 0;
    MPI_Error_string(result, text, &length);
    Abort(absl::StrCat("rank ", session_.rank(), ": ", call, " failed: ", text));
  }

  static uint8_t* Scratch(std::vector<uint8_t>& scratch, size_t bytes) {
    if (scratch.size() < bytes) scratch.resize(bytes);
    return scratch.data();
  }

  // Until `request` is done. `peer` is who must act for that.
  void Finish(MPI_Request& request, const Wait& wait, int peer) {
    const Clock::time_point start = Clock::now();
    double nap = 0.2e-3;  // seconds
    for (;;) {
      int done = 0;
      Check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done) return;
      const double waited = SecondsSince(start);
      if (wait.timeout_seconds > 0 && waited > wait.timeout_seconds && !session_.watches(peers_[peer])) {
        const std::string who =
            peer == rank() ? "a peer" : absl::StrCat("rank ", peers_[peer], " on ", session_.host(peers_[peer]));
        Abort(absl::StrCat("rank ", session_.rank(), ": expected a sign of life from ", who, ", found none for ",
                           wait.timeout_seconds, " s"));
      }
      if (waited < wait.hot_seconds) {
        sched_yield();  // ranks may share a core
      } else {
        std::this_thread::sleep_for(std::chrono::duration<double>(nap));
        nap = std::min(nap * 1.25, 3e-3);
      }
    }
  }

  void Send(int peer, int tag, const Wait& wait) {
    MPI_Request request;
    Check(MPI_Isend(nullptr, 0, MPI_BYTE, peer, tag, comm_, &request), "MPI_Isend");
    Finish(request, wait, peer);
  }
  void Receive(int peer, int tag, const Wait& wait) {
    MPI_Request request;
    Check(MPI_Irecv(nullptr, 0, MPI_BYTE, peer, tag, comm_, &request), "MPI_Irecv");
    Finish(request, wait, peer);
  }

  // Host memory, blocks one after the other.
  void ExchangeBlocks(uint8_t* out, std::span<const int64_t> out_bytes, const uint8_t* in,
                      std::span<const int64_t> in_bytes) {
    const auto piece = static_cast<int64_t>(piece_bytes_);
    std::vector<std::pair<MPI_Request, int>> pending;  // and the peer
    for (int r = 0; r < size(); out += out_bytes[r], ++r) {
      if (r == rank()) {
        const uint8_t* own = in + std::accumulate(in_bytes.begin(), in_bytes.begin() + r, int64_t{0});
        DUO_CHECK_EQ(in_bytes[r], out_bytes[r]);
        if (out_bytes[r] > 0) std::memcpy(out, own, out_bytes[r]);
        continue;
      }
      for (int64_t begin = 0; begin < out_bytes[r]; begin += piece) {
        Check(MPI_Irecv(out + begin, static_cast<int>(std::min(piece, out_bytes[r] - begin)), MPI_BYTE, r, kBlockTag,
                        comm_, &pending.emplace_back(MPI_REQUEST_NULL, r).first),
              "MPI_Irecv");
      }
    }
    for (int r = 0; r < size(); in += in_bytes[r], ++r) {
      for (int64_t begin = 0; begin < in_bytes[r] && r != rank(); begin += piece) {
        Check(MPI_Isend(in + begin, static_cast<int>(std::min(piece, in_bytes[r] - begin)), MPI_BYTE, r, kBlockTag,
                        comm_, &pending.emplace_back(MPI_REQUEST_NULL, r).first),
              "MPI_Isend");
      }
    }
    for (auto& [request, peer] : pending) Finish(request, kInStep, peer);
  }

  void Gather(void* out, const void* in, size_t bytes, const Wait& wait) {
    uint8_t* own = static_cast<uint8_t*>(out) + rank() * bytes;
    if (in != own && bytes > 0) std::memcpy(own, in, bytes);
    if (bytes > piece_bytes_) {  // a rank's after another's
      for (int r = 0; r < size(); ++r) Broadcast(static_cast<uint8_t*>(out) + r * bytes, bytes, r, wait);
      return;
    }
    MPI_Request request;
    Check(MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, out, static_cast<int>(bytes), MPI_BYTE, comm_, &request),
          "MPI_Iallgather");
    Finish(request, wait, rank());
  }

  void SumInto(void* out, DType dtype, int64_t elements, ThreadPool& pool) {
    if (dtype == DType::kBF16) {
      Sum<bf16>(out, parts_.data(), size(), elements, pool);
    } else {
      Sum<float>(out, parts_.data(), size(), elements, pool);
    }
  }

  // data: host, elements of dtype; becomes the sum.
  void SumBlock(uint8_t* data, DType dtype, int64_t elements, ThreadPool& pool) {
    const int ranks = size();
    const int width = static_cast<int>(Bytes(dtype, 1));
    if (elements * width <= kSmallBytes) {
      uint8_t* parts = Scratch(parts_, elements * width * ranks);
      MPI_Request request;
      Check(MPI_Iallgather(data, static_cast<int>(elements * width), MPI_BYTE, parts,
                           static_cast<int>(elements * width), MPI_BYTE, comm_, &request),
            "MPI_Iallgather");
      Finish(request, kInStep, rank());
      SumInto(data, dtype, elements, pool);
      return;
    }
    // Each rank sums one share for all.
    counts_.assign(ranks, 0);
    offsets_.assign(ranks, 0);
    own_counts_.assign(ranks, 0);
    own_offsets_.assign(ranks, 0);
    const auto begin_of = [&](int r) { return elements * r / ranks; };
    const int64_t own = begin_of(rank() + 1) - begin_of(rank());
    for (int r = 0; r < ranks; ++r) {
      counts_[r] = static_cast<int>((begin_of(r + 1) - begin_of(r)) * width);
      offsets_[r] = static_cast<int>(begin_of(r) * width);
      own_counts_[r] = static_cast<int>(own * width);
      own_offsets_[r] = static_cast<int>(r * own * width);
    }
    uint8_t* parts = Scratch(parts_, own * width * ranks);
    MPI_Request request;
    Check(MPI_Ialltoallv(data, counts_.data(), offsets_.data(), MPI_BYTE, parts, own_counts_.data(),
                         own_offsets_.data(), MPI_BYTE, comm_, &request),
          "MPI_Ialltoallv");
    Finish(request, kInStep, rank());
    SumInto(data + offsets_[rank()], dtype, own, pool);
    Check(MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, counts_.data(), offsets_.data(), MPI_BYTE, comm_,
                          &request),
          "MPI_Iallgatherv");
    Finish(request, kInStep, rank());
  }

  MpiSession& session_;
  const size_t piece_bytes_;  // of one MPI call
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0;
  std::vector<int> peers_;  // [rank]: the session's rank
  // Grow to the largest call and stay.
  std::vector<uint8_t> staged_;                                   // the device's data on the host
  std::vector<uint8_t> parts_;                                    // [rank][elements]: what is to be summed
  std::vector<int> counts_, offsets_, own_counts_, own_offsets_;  // bytes
};

}  // namespace

std::unique_ptr<Communicator> MakeMpiCommunicator(MpiSession& session, size_t piece_bytes) {
  return std::make_unique<MpiCommunicator>(session, piece_bytes);
}

}  // namespace duo
