// A block a query head, a warp every 32nd token; the warps' partial sums are put together one after the other.
#include "kernels/attention_plain.h"
#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kWarps = 32;
constexpr int kEach = 8;  // channels of a lane at most

__global__ void __launch_bounds__(kWarps * 32)
    AttendPlainKernel(float* out, const bf16* q_heads, PagedKv kv, int group, int table, int64_t tokens) {
  const int head = blockIdx.x / group, lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = kv.page.head_dim;
  const bf16* q = q_heads + int64_t{blockIdx.x} * d;
  double o[kEach] = {}, top = -INFINITY, sum = 0;
  for (int64_t t = warp; t < tokens; t += kWarps) {
    const uint8_t* page = kv.page_at(head, table, t / kPageTokens);
    const int in_page = t % kPageTokens;
    double score = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int c = lane + 32 * i;
      if (c < d) score += double{ToFloat(q[c])} * PlainValue(kv.page, page, false, in_page, c);
    }
    for (int mask = 16; mask > 0; mask /= 2) score += __shfl_xor_sync(0xffffffffu, score, mask);
    score /= sqrt(double(d));
    const double next = fmax(top, score), keep = exp(top - next), weight = exp(score - next);
    sum = sum * keep + weight;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int c = lane + 32 * i;
      if (c < d) o[i] = o[i] * keep + weight * PlainValue(kv.page, page, true, in_page, c);
    }
    top = next;
  }
  __shared__ double tops[kWarps], total[32 * kEach], weight_sum;
  if (lane == 0) tops[warp] = top;
  for (int c = threadIdx.x; c < 32 * kEach; c += blockDim.x) total[c] = 0;
  if (threadIdx.x == 0) weight_sum = 0;
  __syncthreads();
  double best = tops[0];
  for (int w = 1; w < kWarps; ++w) best = fmax(best, tops[w]);
  for (int w = 0; w < kWarps; ++w) {
    if (warp == w && top != -INFINITY) {
      const double scale = exp(top - best);
      for (int i = 0; i < kEach; ++i) total[lane + 32 * i] += o[i] * scale;
      if (lane == 0) weight_sum += sum * scale;
    }
    __syncthreads();
  }
  for (int c = threadIdx.x; c < d; c += blockDim.x)
    out[int64_t{blockIdx.x} * d + c] = static_cast<float>(total[c] / weight_sum);
}

}  // namespace

void AttendPlain(Device& device, float* out, View qkv, const HeadShape& shape, const PagedKv& kv,
                 const StoredTokens& keys) {
  const bf16* q = qkv.as<bf16>() + int64_t{kv.first_head} * shape.group * shape.head_dim;
  AttendPlainKernel<<<kv.num_heads * shape.group, kWarps * 32, 0, Stream(device)>>>(out, q, kv, shape.group, keys.table,
                                                                                    keys.tokens);
  DUO_CUDA_CHECK(cudaGetLastError());
}

}  // namespace duo::cuda
