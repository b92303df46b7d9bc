#include <algorithm>

#include "kernels/base/cuda_check.h"
#include "kernels/base/overlapped_launch.cuh"
#include "parallel/peer_exchange.cuh"
#include "parallel/peer_memory.h"

namespace duo {
namespace {

using peers::Receive;

constexpr int kThreads = PeerMemory::kCounted;

enum class Out { kGather, kSumF32, kSumBf16 };

struct Exchange {
  const uint32_t* in;
  uint32_t* out;
  int words;  // of four bytes, of this rank's message
};

template <Out kOut>
__global__ void __launch_bounds__(kThreads) ExchangeKernel(PeerWires wires, Exchange e) {
  cuda::StartOverlapped();
  const int unit = blockIdx.x * kThreads + threadIdx.x, first = 2 * unit;
  const uint32_t number = wires.counts[blockIdx.x] + 1;
  if (first < e.words) {
    const bool whole = first + 1 < e.words;
    const uint2 own = {e.in[first], whole ? e.in[first + 1] : 0};
    peers::SendToAll(wires, unit, own, number);
    float sum[4] = {};
    for (int r = 0; r < wires.ranks; ++r) {
      const uint2 part = r == wires.rank ? own : Receive(wires, unit, number, r);
      if constexpr (kOut == Out::kGather) {
        e.out[r * e.words + first] = part.x;
        if (whole) e.out[r * e.words + first + 1] = part.y;
      } else if constexpr (kOut == Out::kSumF32) {
        sum[0] += __uint_as_float(part.x);
        sum[1] += __uint_as_float(part.y);
      } else {
        peers::AddBf16(sum, part);
      }
    }
    if constexpr (kOut != Out::kGather) {
      const uint2 total =
          kOut == Out::kSumF32 ? make_uint2(__float_as_uint(sum[0]), __float_as_uint(sum[1])) : peers::RoundedBf16(sum);
      e.out[first] = total.x;
      if (whole) e.out[first + 1] = total.y;
    }
  }
  __syncthreads();  // every thread has read the count
  if (threadIdx.x == 0) wires.counts[blockIdx.x] = number;
}

template <Out kOut>
void Launch(const Device& device, const PeerWires& wires, const Exchange& exchange) {
  const int blocks = (exchange.words + 2 * kThreads - 1) / (2 * kThreads);
  cuda::LaunchOverlapped(device, ExchangeKernel<kOut>, blocks, kThreads, 0, wires, exchange);
}

}  // namespace

std::unique_ptr<PeerMemory> PeerMemory::Open(Communicator& ranks, Device& device) {
  struct Offer {
    int32_t ok = 0;
    cudaIpcMemHandle_t handle = {};
  };
  std::unique_ptr<PeerMemory> peers(new PeerMemory(ranks, device));
  const int n = ranks.size(), units = UnitsFor(n), counts_of = units / kCounted;
  peers->units_ = units;
  Offer offer;
  absl::StatusOr<Buffer> inbox = Buffer::Allocate(device, 2 * n * units * peers::kUnitBytes, "messages of peers"),
                         counts = Buffer::Allocate(device, counts_of * sizeof(uint32_t), "counts of messages"),
                         table = Buffer::Allocate(device, n * sizeof(void*), "inboxes");
  const bool host =
      cudaHostAlloc(reinterpret_cast<void**>(&peers->silent_), sizeof(int32_t), cudaHostAllocMapped) == cudaSuccess;
  if (inbox.ok() && counts.ok() && table.ok() && host) {
    *peers->silent_ = 0;
    peers->inbox_ = std::move(*inbox);
    peers->counts_ = std::move(*counts);
    peers->table_ = std::move(*table);
    device.Fill(peers->inbox_.data(), 0, peers->inbox_.size());  // no message has the number 0
    device.Fill(peers->counts_.data(), 0, peers->counts_.size());
    device.Synchronize();
    offer.ok = cudaIpcGetMemHandle(&offer.handle, peers->inbox_.data()) == cudaSuccess;
  }
  std::vector<Offer> offers(n);
  ranks.AllGatherHost(offers.data(), &offer, sizeof(offer));
  int32_t mapped = std::all_of(offers.begin(), offers.end(), [](const Offer& o) { return o.ok != 0; });
  peers->inboxes_.assign(n, nullptr);
  for (int r = 0; r < n && mapped != 0; ++r) {
    if (r == ranks.rank()) {
      peers->inboxes_[r] = peers->inbox_.data();
    } else if (cudaIpcOpenMemHandle(&peers->inboxes_[r], offers[r].handle, cudaIpcMemLazyEnablePeerAccess) !=
               cudaSuccess) {
      peers->inboxes_[r] = nullptr;
      mapped = 0;
    }
  }
  cudaGetLastError();  // a refusal is an answer, not an error
  std::vector<int32_t> all(n);
  ranks.AllGatherHost(all.data(), &mapped, sizeof(mapped));
  if (std::find(all.begin(), all.end(), 0) != all.end()) return nullptr;
  device.Upload(peers->table_.data(), peers->inboxes_.data(), n * sizeof(void*));
  return peers;
}

PeerMemory::~PeerMemory() {
  device_.Synchronize();
  ranks_.Barrier();
  for (int r = 0; r < static_cast<int>(inboxes_.size()); ++r) {
    if (r != ranks_.rank() && inboxes_[r] != nullptr) DUO_CUDA_CHECK(cudaIpcCloseMemHandle(inboxes_[r]));
  }
  ranks_.Barrier();  // nobody frees an inbox that is still mapped
  cudaFreeHost(silent_);
}

PeerWires PeerMemory::wires() const {
  return {table_.as<void*>(), counts_.as<uint32_t>(), ranks_.rank(), ranks_.size(), units_, silent_};
}

void PeerMemory::AllReduceSum(View data) {
  const size_t bytes = Bytes(data.dtype, data.rows * data.cols);
  const Exchange exchange = {data.as<const uint32_t>(), data.as<uint32_t>(), static_cast<int>(bytes / 4)};
  if (data.dtype == DType::kBF16) {
    Launch<Out::kSumBf16>(device_, wires(), exchange);
  } else {
    Launch<Out::kSumF32>(device_, wires(), exchange);
  }
}

void PeerMemory::AllGather(void* out, const void* in, size_t bytes) {
  Launch<Out::kGather>(device_, wires(),
                       {static_cast<const uint32_t*>(in), static_cast<uint32_t*>(out), static_cast<int>(bytes / 4)});
}

}  // namespace duo
