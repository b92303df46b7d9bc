// The sum over ranks that ends half a layer, and what follows it, in one kernel: residual += sum, and the norm of that.
// One block a row. Bits are those of AllReduceSum and AddRmsNorm after each other: the sum is in rank order and rounded
// once, and the norm is row_norm.cuh's.
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/base/row_norm.cuh"
#include "parallel/peer_exchange.cuh"

namespace duo {
namespace {

using cuda::kNormThreads;
constexpr int kCounted = PeerMemory::kCounted;

struct SumNorm {
  PeerWires wires;
  const uint2* data;  // dense rows of this rank's part
  float* residual;
  int64_t residual_stride;
  uint8_t* out;       // null: no norm
  int64_t out_bytes;  // from row to row
  const float* weight;
  int dim;
  float eps;
};

// This block's row of the message: its units begin a new count, so that no two blocks share one.
template <int kVectors>
class SummedRow {
 public:
  __device__ __forceinline__ explicit SummedRow(const SumNorm& s)
      : wires_(s.wires), vectors_(s.dim / 4), counts_((vectors_ + kCounted - 1) / kCounted) {
    const uint2* own = s.data + static_cast<int64_t>(blockIdx.x) * vectors_;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int v = threadIdx.x + i * kNormThreads;
      if (v >= vectors_) continue;
      part_[i] = own[v];
      number_[i] = wires_.counts[first_count() + v / kCounted] + 1;
    }
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const int v = threadIdx.x + i * kNormThreads;
      if (v < vectors_) peers::SendToAll(wires_, unit(v), part_[i], number_[i]);
    }
  }

  __device__ __forceinline__ bool nothing() const { return false; }
  // Waits for every rank's part, the thread's units of a rank side by side.
  __device__ __forceinline__ void Fetch() {
    float sum[kVectors][4] = {};
    for (int r = 0; r < wires_.ranks; ++r) {
      if (r == wires_.rank) {
#pragma unroll
        for (int i = 0; i < kVectors; ++i) peers::AddBf16(sum[i], part_[i]);
        continue;
      }
      peers::Found found[kVectors];
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        if (has(i)) found[i].Load(place(i, r));
      }
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        if (has(i)) peers::AddBf16(sum[i], peers::Await(found[i], place(i, r), number_[i], r, wires_.silent));
      }
    }
#pragma unroll
    for (int i = 0; i < kVectors; ++i) part_[i] = peers::RoundedBf16(sum[i]);
  }
  __device__ __forceinline__ uint2 Of(int i, int) const { return part_[i]; }

  // Behind a barrier that every thread reaches after it was made.
  __device__ __forceinline__ void CountMessage() const {
    if (static_cast<int>(threadIdx.x) < counts_) ++wires_.counts[first_count() + threadIdx.x];
  }

 private:
  __device__ __forceinline__ int first_count() const { return blockIdx.x * counts_; }
  __device__ __forceinline__ int unit(int v) const { return first_count() * kCounted + v; }
  __device__ __forceinline__ bool has(int i) const { return threadIdx.x + i * kNormThreads < vectors_; }
  __device__ __forceinline__ const ulonglong2* place(int i, int rank) const {
    return peers::Inbox(wires_, wires_.rank) + peers::Slot(wires_, number_[i], rank) +
           unit(threadIdx.x + i * kNormThreads);
  }

  const PeerWires& wires_;
  const int vectors_, counts_;
  uint2 part_[kVectors] = {};
  uint32_t number_[kVectors] = {};
};

// kVectors: of a thread. Few registers let the next kernel start beside it.
template <int kVectors>
__global__ void __launch_bounds__(kNormThreads, kVectors <= 2 ? 2 : 1) SumNormKernel(SumNorm s) {
  const cuda::NormRow row = {reinterpret_cast<float4*>(s.residual + blockIdx.x * s.residual_stride),
                             s.out == nullptr ? nullptr : reinterpret_cast<uint2*>(s.out + blockIdx.x * s.out_bytes),
                             s.weight, s.dim, s.eps};
  cuda::LetDependentsStart();
  const cuda::NormWeights<kVectors> weights(row);
  cuda::WaitForDependency();
  SummedRow<kVectors> added(s);
  cuda::AddNormRow<false>(row, weights, added);
  __syncthreads();
  added.CountMessage();
}

}  // namespace

bool PeerMemory::AllReduceAddNorm(View data, const ResidualNorm& norm) {
  // By the shape alone, so that all ranks say the same.
  const int64_t units = (data.cols / 4 + kCounted - 1) / kCounted * kCounted * data.rows;
  if (data.dtype != DType::kBF16 || data.cols % 4 != 0 || data.cols > cuda::NormColumns(cuda::kNormVectors) ||
      units > units_)
    return false;
  SumNorm s = {wires(), data.as<const uint2>(), norm.residual.as<float>(), norm.residual.stride};
  s.out = norm.out.empty() ? nullptr : norm.out.as<uint8_t>();
  s.out_bytes = 2 * norm.out.stride;
  s.weight = norm.weight;
  s.dim = static_cast<int>(data.cols);
  s.eps = norm.eps;
  const auto kernel = data.cols <= cuda::NormColumns(2) ? SumNormKernel<2> : SumNormKernel<cuda::kNormVectors>;
  cuda::LaunchOverlapped(device_, kernel, dim3(data.rows), dim3(kNormThreads), 0, s);
  return true;
}

}  // namespace duo
