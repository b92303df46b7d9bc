#include <cuda_bf16.h>

#include <algorithm>

#include "kernels/base/cuda_check.h"
#include "kernels/base/overlapped_launch.cuh"
#include "parallel/peer_memory.h"

namespace duo {
namespace {

constexpr int kThreads = 256;
constexpr size_t kUnits = PeerMemory::kLargest / 8;
constexpr int kBlocks = kUnits / kThreads;
constexpr size_t kUnitBytes = 16;  // eight of data, and the message's number twice

struct Exchange {
  ulonglong2* const* inboxes;
  uint32_t* counts;
  int rank, ranks;
  const uint32_t* in;
  uint32_t* out;
  int words;        // of four bytes, of this rank's message
  int32_t* silent;  // in the host's memory
};

constexpr int kPollsALook = 1 << 16;  // at the clock; some tens of milliseconds

enum class Out { kGather, kSumF32, kSumBf16 };

// A half of a unit: four bytes of data below the message's number. Eight aligned bytes are written and read at once.
__device__ __forceinline__ uint64_t Half(uint32_t data, uint32_t number) { return uint64_t{number} << 32 | data; }

__device__ __forceinline__ void Send(ulonglong2* to, uint2 data, uint32_t number) {
  asm volatile("st.volatile.global.v2.u64 [%0], {%1, %2};" ::"l"(to), "l"(Half(data.x, number)),
               "l"(Half(data.y, number))
               : "memory");
}

__device__ __forceinline__ uint64_t Nanoseconds() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

__device__ __forceinline__ uint2 Receive(const ulonglong2* from, uint32_t number, int peer, int32_t* silent) {
  uint64_t low, high, begun = 0;
  for (int polls = 1;; ++polls) {
    asm volatile("ld.volatile.global.v2.u64 {%0, %1}, [%2];" : "=l"(low), "=l"(high) : "l"(from) : "memory");
    if (static_cast<uint32_t>(low >> 32) == number && static_cast<uint32_t>(high >> 32) == number) break;
    if (polls < kPollsALook) continue;
    polls = 0;
    const uint64_t now = Nanoseconds();
    if (begun == 0) begun = now;
    if (now - begun > PeerMemory::kSilenceSeconds * 1000000000ull) *static_cast<volatile int32_t*>(silent) = peer + 1;
  }
  return {static_cast<uint32_t>(low), static_cast<uint32_t>(high)};
}

__device__ __forceinline__ void Add(float (&sum)[4], uint2 part, Out out) {
  if (out == Out::kSumF32) {
    sum[0] += __uint_as_float(part.x);
    sum[1] += __uint_as_float(part.y);
  } else {
    sum[0] += __uint_as_float(part.x << 16);
    sum[1] += __uint_as_float(part.x & 0xffff0000u);
    sum[2] += __uint_as_float(part.y << 16);
    sum[3] += __uint_as_float(part.y & 0xffff0000u);
  }
}

__device__ __forceinline__ uint32_t Rounded(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

template <Out kOut>
__global__ void __launch_bounds__(kThreads) ExchangeKernel(Exchange e) {
  cuda::StartOverlapped();
  const int unit = blockIdx.x * kThreads + threadIdx.x, first = 2 * unit;
  const uint32_t number = e.counts[blockIdx.x] + 1;
  if (first < e.words) {
    const bool whole = first + 1 < e.words;
    const uint2 own = {e.in[first], whole ? e.in[first + 1] : 0};
    const size_t half = (number % 2) * e.ranks * kUnits + unit;
    for (int step = 1; step < e.ranks; ++step) {  // each rank begins with another peer
      const int peer = (e.rank + step) % e.ranks;
      Send(e.inboxes[peer] + half + e.rank * kUnits, own, number);
    }
    const ulonglong2* inbox = e.inboxes[e.rank] + half;
    float sum[4] = {};
    for (int r = 0; r < e.ranks; ++r) {
      const uint2 part = r == e.rank ? own : Receive(inbox + r * kUnits, number, r, e.silent);
      if constexpr (kOut == Out::kGather) {
        e.out[r * e.words + first] = part.x;
        if (whole) e.out[r * e.words + first + 1] = part.y;
      } else {
        Add(sum, part, kOut);
      }
    }
    if constexpr (kOut == Out::kSumF32) {
      e.out[first] = __float_as_uint(sum[0]);
      if (whole) e.out[first + 1] = __float_as_uint(sum[1]);
    } else if constexpr (kOut == Out::kSumBf16) {
      e.out[first] = Rounded(sum[0], sum[1]);
      if (whole) e.out[first + 1] = Rounded(sum[2], sum[3]);
    }
  }
  __syncthreads();  // every thread has read the count
  if (threadIdx.x == 0) e.counts[blockIdx.x] = number;
}

template <Out kOut>
void Launch(const Device& device, const Exchange& exchange) {
  const int blocks = (exchange.words + 2 * kThreads - 1) / (2 * kThreads);
  cuda::LaunchOverlapped(device, ExchangeKernel<kOut>, blocks, kThreads, 0, exchange);
}

}  // namespace

std::unique_ptr<PeerMemory> PeerMemory::Open(Communicator& ranks, Device& device) {
  struct Offer {
    int32_t ok = 0;
    cudaIpcMemHandle_t handle = {};
  };
  std::unique_ptr<PeerMemory> peers(new PeerMemory(ranks, device));
  const int n = ranks.size();
  Offer offer;
  absl::StatusOr<Buffer> inbox = Buffer::Allocate(device, 2 * n * kUnits * kUnitBytes, "messages of peers"),
                         counts = Buffer::Allocate(device, kBlocks * sizeof(uint32_t), "counts of messages"),
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

void PeerMemory::AllReduceSum(View data) {
  const int64_t elements = data.rows * data.cols;
  const Exchange exchange = {table_.as<ulonglong2*>(),
                             counts_.as<uint32_t>(),
                             ranks_.rank(),
                             ranks_.size(),
                             data.as<const uint32_t>(),
                             data.as<uint32_t>(),
                             static_cast<int>(Bytes(data.dtype, elements) / 4),
                             silent_};
  if (data.dtype == DType::kBF16) {
    Launch<Out::kSumBf16>(device_, exchange);
  } else {
    Launch<Out::kSumF32>(device_, exchange);
  }
}

void PeerMemory::AllGather(void* out, const void* in, size_t bytes) {
  Launch<Out::kGather>(
      device_, {table_.as<ulonglong2*>(), counts_.as<uint32_t>(), ranks_.rank(), ranks_.size(),
                static_cast<const uint32_t*>(in), static_cast<uint32_t*>(out), static_cast<int>(bytes / 4), silent_});
}

}  // namespace duo
