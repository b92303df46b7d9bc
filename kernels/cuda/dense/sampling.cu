// Sampling from vocabulary shards. A row's shard is cut over kParts blocks, so that a single row fills the GPU's
// memory pipe; the last block of a row to finish merges the parts in a fixed order.
#include <cub/device/device_radix_sort.cuh>

#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kParts = 32;
constexpr int kSampleThreads = 256, kSampleEach = 8;

struct Part {
  float top;    // largest scaled logit
  float sum;    // sum of exp(scaled logit - top)
  float value;  // best perturbed logit
  int32_t id;
};

__device__ __forceinline__ Part Merge(Part a, Part b) {
  const float top = fmaxf(a.top, b.top);
  // Sums of nothing are 0, of a NaN NaN: that one reaches the row's lse, wherever it stands.
  const float sum = top == -INFINITY ? a.sum + b.sum : a.sum * expf(a.top - top) + b.sum * expf(b.top - top);
  const bool take_b = b.value > a.value || (b.value == a.value && b.id < a.id);
  return {top, sum, take_b ? b.value : a.value, take_b ? b.id : a.id};
}
__device__ __forceinline__ Part MergeLanes(Part p) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const Part other = {__shfl_xor_sync(0xffffffffu, p.top, lanes), __shfl_xor_sync(0xffffffffu, p.sum, lanes),
                        __shfl_xor_sync(0xffffffffu, p.value, lanes), __shfl_xor_sync(0xffffffffu, p.id, lanes)};
    p = Merge(p, other);
  }
  return p;
}

__global__ void __launch_bounds__(kSampleThreads)
    SampleKernel(ShardSample* out, const float* logits, int64_t stride, int64_t shard, int32_t first_id,
                 const SampleParams* params, Part* parts, uint32_t* arrivals) {
  const int row = blockIdx.y;
  const SampleParams p = params[row];
  const float* x = logits + row * stride;
  const int64_t begin = shard * blockIdx.x / kParts, end = shard * (blockIdx.x + 1) / kParts;
  constexpr int32_t kNoId = 0x7fffffff;
  Part best = {-INFINITY, 0.0f, -INFINITY, kNoId};
  WaitForDependency();
  // Loads are under way together; one at a time they were most of the kernel.
  for (int64_t first = begin + threadIdx.x; first < end; first += kSampleThreads * kSampleEach) {
    float values[kSampleEach];
#pragma unroll
    for (int j = 0; j < kSampleEach; ++j) {
      const int64_t i = first + j * kSampleThreads;
      values[j] = i < end ? x[i] : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < kSampleEach; ++j) {
      const int64_t i = first + j * kSampleThreads;
      if (i >= end) break;
      const float scaled = p.temperature >= kGreedyBelow ? values[j] / p.temperature : values[j];
      const int32_t id = first_id + static_cast<int32_t>(i);
      const float value = p.temperature >= kGreedyBelow ? scaled + SampleNoise(p.seed, p.position, id) : scaled;
      const bool nan = isnan(scaled);
      best = Merge(best, {nan ? -INFINITY : scaled, nan ? scaled : scaled == -INFINITY ? 0.0f : 1.0f, value, id});
    }
  }
  __shared__ Part warps[kSampleThreads / 32];
  __shared__ bool last;
  best = MergeLanes(best);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x < 32) {
    best = MergeLanes(threadIdx.x < kSampleThreads / 32 ? warps[threadIdx.x] : Part{-INFINITY, 0, -INFINITY, kNoId});
    if (threadIdx.x == 0) {
      parts[row * kParts + blockIdx.x] = best;
      __threadfence();
      last = atomicInc(&arrivals[row], kParts - 1) == kParts - 1;  // wraps to 0 for the next launch
    }
    __syncwarp();
    if (!last) return;
    __threadfence();
    static_assert(kParts == 32);
    const Part* mine = &parts[row * kParts + threadIdx.x];
    best = MergeLanes({__ldcg(&mine->top), __ldcg(&mine->sum), __ldcg(&mine->value), __ldcg(&mine->id)});
    if (threadIdx.x == 0) out[row] = {best.top + logf(best.sum), best.value, best.id};
  }
}

// As the CPU's: each operation is rounded by itself.
__global__ void EditKernel(float* logits, int32_t first_id, const LogitEdit* edits, int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const LogitEdit edit = edits[i];
  float& logit = logits[edit.id - first_id];
  const float divided = logit > 0 ? __fdiv_rn(logit, edit.divide) : __fmul_rn(logit, edit.divide);
  logit = __fadd_rn(divided, edit.add);
}
__global__ void MaskKernel(float* logits, int64_t shard, int32_t first_id, const uint32_t* mask) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= shard) return;
  const int64_t id = first_id + i;
  if ((mask[id / 32 - first_id / 32] >> (id % 32) & 1) == 0) logits[i] = -INFINITY;
}

// Order-preserving key: logits descending, then ids ascending, when sorted by descending key.
__global__ void KeysKernel(uint64_t* keys, const float* logits, int64_t shard) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= shard) return;
  const uint32_t u = __float_as_uint(logits[i] + 0.0f);  // -0 becomes +0, so that equal values tie
  const uint32_t ordered = (u & 0x80000000u) ? ~u : u | 0x80000000u;
  keys[i] = (uint64_t{ordered} << 32) | (0xffffffffu - static_cast<uint32_t>(i));
}
__global__ void UnpackKernel(float* values, int32_t* ids, const uint64_t* keys, const float* logits, int32_t first_id,
                             int count) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const uint32_t index = 0xffffffffu - static_cast<uint32_t>(keys[i]);
  values[i] = logits[index];
  ids[i] = first_id + static_cast<int32_t>(index);
}

size_t SortBytes(int64_t shard) {
  size_t bytes = 0;
  DUO_CUDA_CHECK(cub::DeviceRadixSort::SortKeysDescending(nullptr, bytes, static_cast<const uint64_t*>(nullptr),
                                                          static_cast<uint64_t*>(nullptr), shard));
  return bytes;
}

}  // namespace

void SampleShard(Device& device, ShardSample* out, View logits, int32_t first_id, const SampleParams* params) {
  Device::CudaState& state = State(device);
  constexpr int64_t kRows = Device::CudaState::kPartialBytes / (kParts * sizeof(Part));
  static_assert(kRows <= Device::CudaState::kCounters);
  for (int64_t first = 0; first < logits.rows; first += kRows) {
    const int64_t rows = logits.rows - first < kRows ? logits.rows - first : kRows;
    LaunchOverlapped(device, SampleKernel, dim3(kParts, static_cast<unsigned>(rows)), dim3(kSampleThreads), 0,
                     out + first, logits.as<float>() + first * logits.stride, logits.stride, logits.cols, first_id,
                     params + first, static_cast<Part*>(state.partials), state.counters);
  }
}

void EditLogits(Device& device, View logits, int32_t first_id, const LogitEdit* edits, int count,
                const uint32_t* mask) {
  const cudaStream_t stream = Stream(device);
  if (count > 0) {
    EditKernel<<<CeilDiv(count, 256), 256, 0, stream>>>(logits.as<float>(), first_id, edits, count);
    DUO_CUDA_CHECK(cudaGetLastError());
  }
  if (mask != nullptr && logits.cols > 0) {
    MaskKernel<<<CeilDiv(logits.cols, 256), 256, 0, stream>>>(logits.as<float>(), logits.cols, first_id, mask);
    DUO_CUDA_CHECK(cudaGetLastError());
  }
}

// One row is sorted at a time: sampling with top-p is a row or a few a step.
size_t TopLogitsScratchBytes(const Device&, int64_t, int64_t shard, int) {
  return 2 * Arena::Rounded(shard * sizeof(uint64_t)) + Arena::Rounded(SortBytes(shard));
}

void TopLogits(Device& device, const LargestLogits& out, View logits, int32_t first_id, Arena& scratch) {
  const size_t mark = scratch.used();
  const int64_t shard = logits.cols;
  size_t sort_bytes = SortBytes(shard);
  auto* keys = static_cast<uint64_t*>(scratch.Take(shard * sizeof(uint64_t)));
  auto* sorted = static_cast<uint64_t*>(scratch.Take(shard * sizeof(uint64_t)));
  void* space = scratch.Take(sort_bytes);
  const cudaStream_t stream = Stream(device);
  for (int64_t row = 0; row < logits.rows; ++row) {
    const float* x = logits.as<float>() + row * logits.stride;
    KeysKernel<<<CeilDiv(shard, 256), 256, 0, stream>>>(keys, x, shard);
    DUO_CUDA_CHECK(cudaGetLastError());
    DUO_CUDA_CHECK(cub::DeviceRadixSort::SortKeysDescending(space, sort_bytes, keys, sorted, shard, 0, 64, stream));
    UnpackKernel<<<CeilDiv(out.count, 256), 256, 0, stream>>>(out.values + row * out.count, out.ids + row * out.count,
                                                              sorted, x, first_id, out.count);
    DUO_CUDA_CHECK(cudaGetLastError());
  }
  scratch.Rewind(mark);
}

}  // namespace duo::cuda
