// The scores of the keys of few pages, and what follows from log masses: sums over all pages, and shares.
#include <algorithm>

#include "kernels/attention_mass.h"
#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kMaxDim = 256;
constexpr int kRows = 4;        // query heads at once
constexpr int kMostHeads = 16;  // of a launch
constexpr int kSumThreads = 512, kShareThreads = 64;
constexpr float kNothing = -30;  // as on the CPU

struct ScoredHeads {
  MassHead heads[kMostHeads];
};

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

// A block a page of a head, a thread a token: each thread reads its key once, a word of codes at a time.
template <KvFormat kFormat>
__global__ void __launch_bounds__(kPageTokens)
    KeyScoresKernel(float* out, const __grid_constant__ ScoredHeads of, const int32_t* pages, int count) {
  __shared__ float q[kRows][kMaxDim];
  const auto& [row, kv] = of.heads[blockIdx.y];
  out += static_cast<int64_t>(blockIdx.y) * row.group * count * kPageTokens;
  for (int first = 0; first < row.group; first += kRows) {
    LoadQueries(q, row, first, kv.page.head_dim);
    float scores[kRows];
    ScoreKey<kFormat>(q, row, kv, pages[blockIdx.x], threadIdx.x, scores);
    for (int r = 0; r < kRows && first + r < row.group; ++r) {
      out[(static_cast<int64_t>(first + r) * count + blockIdx.x) * kPageTokens + threadIdx.x] = scores[r];
    }
  }
}

// A block a row: each thread's largest and the sum of what lies below it, then those of all threads.
__global__ void __launch_bounds__(kSumThreads) LogSumsKernel(float* out, const LogMasses of) {
  constexpr int kWarps = kSumThreads / 32;
  __shared__ float tops[kWarps], sums[kWarps];
  const int64_t count = of.count * of.parts;
  const float* row = of.logs + blockIdx.x * of.row_floats();
  float top = -INFINITY, sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) top = fmaxf(top, row[i]);
  for (int mask = 16; mask > 0; mask /= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, mask));
  if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = top;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) top = fmaxf(top, tops[w]);
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) {
    const float x = row[i] - top;
    if (x > kNothing) sum += expf(x);
  }
  for (int mask = 16; mask > 0; mask /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, mask);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  float all = 0;
  for (int w = 0; w < kWarps; ++w) all += sums[w];
  out[blockIdx.x] = all > 0 ? top + logf(all) : -INFINITY;
}

// A thread an entry.
__global__ void __launch_bounds__(kShareThreads)
    SumSharesKernel(float* out, const LogMasses of, const float* lse, const float* weights) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kShareThreads + threadIdx.x;
  if (i >= of.count) return;
  float sum = 0;
#pragma unroll 4
  for (int r = 0; r < of.rows; ++r) {
    const float* logs = of.logs + r * of.row_floats() + i * of.parts;
    const float reference = lse[r];
    float share = 0;
    for (int p = 0; p < of.parts; ++p) {
      const float x = logs[p] - reference;
      if (x > kNothing) share += expf(x);
    }
    sum += weights[r] * share;
  }
  out[i] = sum;
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

void KeyScores(Device& device, float* out, std::span<const MassHead> heads, const int32_t* pages, int count) {
  DUO_CHECK_EQ(heads[0].kv.page.head_dim % 8, 0);
  ScoredHeads of = {};
  for (size_t first = 0; first < heads.size();) {
    const KvFormat format = heads[first].kv.page.format;
    unsigned taken = 0;
    for (; taken < kMostHeads && first + taken < heads.size(); ++taken) {
      if (heads[first + taken].kv.page.format != format) break;
      of.heads[taken] = heads[first + taken];
    }
    const dim3 grid(static_cast<unsigned>(count), taken);
    WithFormat(format, [&]<KvFormat kFormat>() {
      KeyScoresKernel<kFormat><<<grid, kPageTokens, 0, Stream(device)>>>(out, of, pages, count);
    });
    DUO_CUDA_CHECK(cudaGetLastError());
    out += static_cast<int64_t>(taken) * heads[0].row.group * count * kPageTokens;
    first += taken;
  }
}

void LogSums(Device& device, float* out, const LogMasses& of) {
  LogSumsKernel<<<of.rows, kSumThreads, 0, Stream(device)>>>(out, of);
  DUO_CUDA_CHECK(cudaGetLastError());
}

void SumShares(Device& device, float* out, const LogMasses& of, const float* lse, const float* weights) {
  const auto blocks = static_cast<unsigned>((of.count + kShareThreads - 1) / kShareThreads);
  SumSharesKernel<<<blocks, kShareThreads, 0, Stream(device)>>>(out, of, lse, weights);
  DUO_CUDA_CHECK(cudaGetLastError());
}

}  // namespace duo::cuda
