// A block a page, a thread a token: each thread scores its key for every query head of the group, and the block sums a
// page's mass. It reads K once and is made for few chosen heads.
#include "kernels/attention_mass.h"
#include "kernels/attention_plain.h"
#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kMaxDim = 256;

// The thread's key with query head g, whose q lies in shared memory; -inf where it is not seen or not held here.
__device__ float ScoreOf(const float* q, const MassRow& row, const PagedKv& kv, int64_t p, int token) {
  const int64_t j = p * kPageTokens + token;
  if (!kv.holds(p) || j > row.position || (kv.window > 0 && row.position - j >= kv.window)) return -INFINITY;
  const uint8_t* page = kv.page_at(row.head, row.table, p);
  float sum = 0;
  for (int c = 0; c < kv.page.head_dim; ++c) sum += q[c] * PlainValue(kv.page, page, false, token, c);
  return sum;
}

__device__ void LoadQuery(float* shared, const MassRow& row, int g, int d) {
  const float scale = rsqrtf(static_cast<float>(d));
  const bf16* q = static_cast<const bf16*>(row.q) + static_cast<int64_t>(g) * d;
  __syncthreads();
  for (int c = threadIdx.x; c < d; c += blockDim.x) shared[c] = ToFloat(q[c]) * scale;
  __syncthreads();
}

__global__ void __launch_bounds__(kPageTokens) PageMassKernel(float* out, MassRow row, PagedKv kv, int64_t pages) {
  __shared__ float q[kMaxDim], parts[kPageTokens / 32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int g = 0; g < row.group; ++g) {
    LoadQuery(q, row, g, kv.page.head_dim);
    const float score = ScoreOf(q, row, kv, blockIdx.x, threadIdx.x);
    float top = score;
    for (int mask = 16; mask > 0; mask /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, mask));
    if (lane == 0) parts[warp] = top;
    __syncthreads();
    for (int w = 0; w < kPageTokens / 32; ++w) top = fmaxf(top, parts[w]);
    __syncthreads();
    float sum = top == -INFINITY ? 0.0f : expf(score - top);
    for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
    if (lane == 0) parts[warp] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
      float all = 0;
      for (int w = 0; w < kPageTokens / 32; ++w) all += parts[w];
      out[g * pages + blockIdx.x] = all > 0 ? top + logf(all) : -INFINITY;
    }
  }
}

__global__ void __launch_bounds__(kPageTokens)
    KeyScoresKernel(float* out, MassRow row, PagedKv kv, const int32_t* pages, int count) {
  __shared__ float q[kMaxDim];
  for (int g = 0; g < row.group; ++g) {
    LoadQuery(q, row, g, kv.page.head_dim);
    out[(static_cast<int64_t>(g) * count + blockIdx.x) * kPageTokens + threadIdx.x] =
        ScoreOf(q, row, kv, pages[blockIdx.x], threadIdx.x);
  }
}

}  // namespace

void PageMass(Device& device, float* out, const MassRow& row, const PagedKv& kv, int64_t pages) {
  PageMassKernel<<<static_cast<unsigned>(pages), kPageTokens, 0, Stream(device)>>>(out, row, kv, pages);
  DUO_CUDA_CHECK(cudaGetLastError());
}

void KeyScores(Device& device, float* out, const MassRow& row, const PagedKv& kv, const int32_t* pages, int count) {
  KeyScoresKernel<<<static_cast<unsigned>(count), kPageTokens, 0, Stream(device)>>>(out, row, kv, pages, count);
  DUO_CUDA_CHECK(cudaGetLastError());
}

}  // namespace duo::cuda
