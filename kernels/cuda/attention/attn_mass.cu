// A block a page, a thread a token: each thread reads its key once, a word of codes at a time, and scores it for up to
// kRows query heads of the group; the block sums a page's mass. Made for few chosen heads.
#include "kernels/attention_mass.h"
#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kMaxDim = 256;
constexpr int kRows = 4;  // query heads at once
constexpr int kWarps = kPageTokens / 32;

template <KvFormat kFormat>
constexpr int kWordValues = kFormat == KvFormat::kBF16   ? 2
                            : kFormat == KvFormat::kInt4 ? 8
                                                         : 4;

// The numbers that a word of codes stands for.
template <KvFormat kFormat>
__device__ void DecodeWord(uint32_t word, const KvParams& params, float (&values)[kWordValues<kFormat>]) {
  constexpr int kBits = 32 / kWordValues<kFormat>;
#pragma unroll
  for (int i = 0; i < kWordValues<kFormat>; ++i) {
    const uint32_t code = (word >> (kBits * i)) & ((1u << kBits) - 1);
    if constexpr (kFormat == KvFormat::kBF16) {
      values[i] = __uint_as_float(code << 16);
    } else {
      values[i] = KvDecode(kFormat, static_cast<uint8_t>(code), params);
    }
  }
}

// scores of the thread's key with the query heads [first, first + kRows), whose q lie in shared memory; -inf where it
// is not seen or not held here.
template <KvFormat kFormat>
__device__ void ScoreKey(const float (&q)[kRows][kMaxDim], const MassRow& row, const PagedKv& kv, int64_t p, int token,
                         float (&scores)[kRows]) {
  const int64_t j = p * kPageTokens + token;
  const bool sees = kv.holds(p) && j <= row.position && (kv.window == 0 || row.position - j < kv.window);
#pragma unroll
  for (int r = 0; r < kRows; ++r) scores[r] = sees ? 0.0f : -INFINITY;
  if (!sees) return;
  const uint8_t* page = kv.page_at(row.head, row.table, p);
  KvParams params = {};
  if constexpr (kFormat != KvFormat::kBF16) {
    const f16* stored = reinterpret_cast<const f16*>(page + kv.page.k_params(token));
    params = {stored[0], kFormat == KvFormat::kFp8 ? f16{0} : stored[1]};
  }
  const auto* words = reinterpret_cast<const uint32_t*>(page + kv.page.k_codes(token));
  constexpr int kValues = kWordValues<kFormat>;
  for (int w = 0; w < kv.page.head_dim / kValues; ++w) {
    float values[kValues];
    DecodeWord<kFormat>(words[w], params, values);
#pragma unroll
    for (int i = 0; i < kValues; ++i) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) scores[r] += q[r][w * kValues + i] * values[i];
    }
  }
}

// q of the query heads from `first` on, times 1 / sqrt(d); zeros beyond the group.
__device__ void LoadQueries(float (&shared)[kRows][kMaxDim], const MassRow& row, int first, int d) {
  const float scale = rsqrtf(static_cast<float>(d));
  const auto* q = static_cast<const bf16*>(row.q);
  __syncthreads();
  for (int i = threadIdx.x; i < kRows * d; i += blockDim.x) {
    const int r = i / d, c = i % d;
    shared[r][c] = first + r < row.group ? ToFloat(q[(first + r) * d + c]) * scale : 0.0f;
  }
  __syncthreads();
}

template <KvFormat kFormat>
__global__ void __launch_bounds__(kPageTokens) PageMassKernel(float* out, MassRow row, PagedKv kv, int64_t pages) {
  __shared__ float q[kRows][kMaxDim], tops[kRows][kWarps], sums[kRows][kWarps];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int first = 0; first < row.group; first += kRows) {
    LoadQueries(q, row, first, kv.page.head_dim);
    float scores[kRows];
    ScoreKey<kFormat>(q, row, kv, blockIdx.x, threadIdx.x, scores);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float top = scores[r];
      for (int mask = 16; mask > 0; mask /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, mask));
      float sum = top == -INFINITY ? 0.0f : expf(scores[r] - top);
      for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
      if (lane == 0) {
        tops[r][warp] = top;
        sums[r][warp] = sum;
      }
    }
    __syncthreads();
    const int r = threadIdx.x;
    if (r < kRows && first + r < row.group) {
      float top = -INFINITY, sum = 0;
      for (int w = 0; w < kWarps; ++w) top = fmaxf(top, tops[r][w]);
      for (int w = 0; w < kWarps; ++w) {
        if (sums[r][w] > 0) sum += sums[r][w] * expf(tops[r][w] - top);
      }
      out[(first + r) * pages + blockIdx.x] = sum > 0 ? top + logf(sum) : -INFINITY;
    }
  }
}

template <KvFormat kFormat>
__global__ void __launch_bounds__(kPageTokens)
    KeyScoresKernel(float* out, MassRow row, PagedKv kv, const int32_t* pages, int count) {
  __shared__ float q[kRows][kMaxDim];
  for (int first = 0; first < row.group; first += kRows) {
    LoadQueries(q, row, first, kv.page.head_dim);
    float scores[kRows];
    ScoreKey<kFormat>(q, row, kv, pages[blockIdx.x], threadIdx.x, scores);
    for (int r = 0; r < kRows && first + r < row.group; ++r) {
      out[(static_cast<int64_t>(first + r) * count + blockIdx.x) * kPageTokens + threadIdx.x] = scores[r];
    }
  }
}

// run.operator()<format>() for the pages' format; f32 is refused on CUDA long before.
template <typename Run>
void WithFormat(KvFormat format, const Run& run) {
  switch (format) {
    case KvFormat::kBF16:
      return run.template operator()<KvFormat::kBF16>();
    case KvFormat::kFp8:
      return run.template operator()<KvFormat::kFp8>();
    case KvFormat::kInt8:
      return run.template operator()<KvFormat::kInt8>();
    case KvFormat::kInt4:
      return run.template operator()<KvFormat::kInt4>();
    case KvFormat::kF32:
      break;
  }
  DUO_CHECK_MSG(false, "f32 pages on CUDA");
}

}  // namespace

void PageMass(Device& device, float* out, const MassRow& row, const PagedKv& kv, int64_t pages) {
  DUO_CHECK_EQ(kv.page.head_dim % 8, 0);
  WithFormat(kv.page.format, [&]<KvFormat kFormat>() {
    PageMassKernel<kFormat><<<static_cast<unsigned>(pages), kPageTokens, 0, Stream(device)>>>(out, row, kv, pages);
  });
  DUO_CUDA_CHECK(cudaGetLastError());
}

void KeyScores(Device& device, float* out, const MassRow& row, const PagedKv& kv, const int32_t* pages, int count) {
  DUO_CHECK_EQ(kv.page.head_dim % 8, 0);
  WithFormat(kv.page.format, [&]<KvFormat kFormat>() {
    KeyScoresKernel<kFormat>
        <<<static_cast<unsigned>(count), kPageTokens, 0, Stream(device)>>>(out, row, kv, pages, count);
  });
  DUO_CUDA_CHECK(cudaGetLastError());
}

}  // namespace duo::cuda
