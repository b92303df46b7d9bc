// Prefill attention of retrieval heads. History is gathered from pages of any codec to contiguous bf16, a segment at a
// time, and attended densely; the step's own tokens are attended from qkv; partials merge by their lse in f32.
#include <algorithm>

#include "kernels/base/cuda_check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/flash.h"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int64_t kSegmentTokens = 65536;
constexpr int kEach = 16;  // channels a thread decodes

// Tokens [first, first + count) of the pages held here -> k, v [head][capacity][head_dim].
template <KvFormat kFormat>
__global__ void GatherKernel(bf16* k, bf16* v, int64_t capacity, PagedKv kv, int table, int64_t first, int64_t count) {
  const int head_dim = kv.page.head_dim, per_vector = head_dim / kEach;
  const int64_t item = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (item >= count * per_vector) return;
  const int64_t token = first + item / per_vector;
  const int channel = item % per_vector * kEach, head = blockIdx.y;
  const bool is_v = blockIdx.z;
  const uint8_t* page = kv.page_at(head, table, kv.held(token / kPageTokens));
  const int in_page = token % kPageTokens;
  const uint8_t* codes = page + (is_v ? kv.page.v_codes(in_page) : kv.page.k_codes(in_page));
  uint4* out = reinterpret_cast<uint4*>((is_v ? v : k) + (head * capacity + item / per_vector) * head_dim + channel);
  if constexpr (kFormat == KvFormat::kBF16) {
    const uint4* in = reinterpret_cast<const uint4*>(codes + channel * 2);
    out[0] = in[0];
    out[1] = in[1];
  } else {
    const uint16_t* p =
        reinterpret_cast<const uint16_t*>(page + (is_v ? kv.page.v_params(in_page) : kv.page.k_params(in_page)));
    KvParams params = {f16{p[0]}, f16{0}};
    if constexpr (kFormat != KvFormat::kFp8) params.min = f16{p[1]};
    uint32_t words[4], pairs[8];
    LoadStreaming<kFormat == KvFormat::kInt4 ? 8 : 16>(words, codes + KvCodeBytes(kFormat, channel));
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float x[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int e = 2 * i + j;
        const uint8_t code =
            kFormat == KvFormat::kInt4 ? (words[e / 8] >> (4 * (e % 8))) & 15 : words[e / 4] >> (8 * (e % 4));
        x[j] = KvDecode(kFormat, code, params);
      }
      pairs[i] = PackBf16(x[0], x[1]);
    }
    out[0] = {pairs[0], pairs[1], pairs[2], pairs[3]};
    out[1] = {pairs[4], pairs[5], pairs[6], pairs[7]};
  }
}

void Gather(Device& device, bf16* k, bf16* v, int64_t capacity, const PagedKv& kv, int table, int64_t first,
            int64_t count) {
  const int64_t items = count * (kv.page.head_dim / kEach);
  const dim3 grid((items + 255) / 256, kv.num_heads, 2);
  const cudaStream_t stream = Stream(device);
  switch (kv.page.format) {
    case KvFormat::kBF16:
      GatherKernel<KvFormat::kBF16><<<grid, 256, 0, stream>>>(k, v, capacity, kv, table, first, count);
      break;
    case KvFormat::kFp8:
      GatherKernel<KvFormat::kFp8><<<grid, 256, 0, stream>>>(k, v, capacity, kv, table, first, count);
      break;
    case KvFormat::kInt8:
      GatherKernel<KvFormat::kInt8><<<grid, 256, 0, stream>>>(k, v, capacity, kv, table, first, count);
      break;
    case KvFormat::kInt4:
      GatherKernel<KvFormat::kInt4><<<grid, 256, 0, stream>>>(k, v, capacity, kv, table, first, count);
      break;
    case KvFormat::kF32:
      DUO_CHECK_MSG(false, "f32 KV is for the CPU");
  }
  DUO_CUDA_CHECK(cudaGetLastError());
}

// Merges one partial into the running sum. One warp per (row, query head). First: the sum is empty. Last: the result
// goes to `out`, bf16.
struct MergeArgs {
  float* sum;        // [rows][heads * head_dim]
  float* sum_lse;    // [heads][rows]
  const bf16* part;  // [rows][heads * head_dim]
  const float* part_lse;
  bf16* out;
  int64_t out_stride;
  float* lse;
  int64_t rows;
  int heads;
  bool first, last;
};
template <int kHeadDim>
__global__ void MergePartialKernel(MergeArgs a) {
  constexpr int kPairs = kHeadDim / 64;  // of a lane
  const int64_t item = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (item >= a.rows * a.heads) return;
  const int64_t row = item / a.heads;
  const int head = item % a.heads;
  const int64_t at = item * kHeadDim;
  const MergedWeights weights =
      MergeWeights(a.first ? -INFINITY : a.sum_lse[head * a.rows + row], a.part_lse[head * a.rows + row]);
  const uint32_t* part = reinterpret_cast<const uint32_t*>(a.part + at);
  float2* sum = reinterpret_cast<float2*>(a.sum + at);
  uint32_t* out = reinterpret_cast<uint32_t*>(a.out + row * a.out_stride + int64_t{head} * kHeadDim);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const uint32_t p = part[lane + 32 * i];
    float2 x = {weights.b * LowBf16(p), weights.b * HighBf16(p)};
    if (weights.b == 0) x = {0, 0};
    if (!a.first) {
      const float2 old = sum[lane + 32 * i];
      x.x += weights.a * old.x;
      x.y += weights.a * old.y;
    }
    if (a.last) {
      out[lane + 32 * i] = PackBf16(x.x, x.y);
    } else {
      sum[lane + 32 * i] = x;
    }
  }
  __syncwarp();  // every lane has read the lse
  if (lane == 0) {
    float* lse = a.last ? a.lse : a.sum_lse;
    if (lse != nullptr) lse[head * a.rows + row] = weights.lse;
  }
}

__global__ void EmptyKernel(bf16* out, int64_t stride, float* lse, int64_t rows, int cols, int heads) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < rows * cols) out[i / cols * stride + i % cols] = bf16{0};
  if (lse != nullptr && i < rows * heads) lse[i] = -INFINITY;
}

int64_t SegmentCapacity(int64_t max_tokens) {
  return std::min(kSegmentTokens, (std::max<int64_t>(max_tokens, 1) + kPageTokens - 1) / kPageTokens * kPageTokens);
}

}  // namespace

size_t PrefillScratchBytes(const Device&, int rows, int group, const PagedKv& kv, int64_t max_tokens) {
  const int64_t d = kv.page.head_dim, heads = kv.num_heads, q_heads = heads * group;
  const int64_t segment = SegmentCapacity(max_tokens);
  return 2 * Arena::Rounded(heads * segment * d * sizeof(bf16)) +  // K and V
         Arena::Rounded(rows * q_heads * d * sizeof(float)) + Arena::Rounded(rows * q_heads * d * sizeof(bf16)) +
         2 * Arena::Rounded(rows * q_heads * sizeof(float)) + Arena::Rounded(rows * q_heads * sizeof(float));
}

void AttendPrefill(Device& device, View out, float* lse, View qkv, const HeadShape& shape, const SeqBatch& batch,
                   const PagedKv& kv, bool own_square, Arena& scratch) {
  const size_t mark = scratch.used();
  const SeqSpan& span = batch.host_spans[0];
  const int rows = span.num_rows, d = shape.head_dim, q_heads = kv.num_heads * shape.group;
  const int64_t first_column = int64_t{kv.first_head} * d;
  bf16* q = qkv.as<bf16>() + span.first_row * qkv.stride + first_column * shape.group;
  bf16* target = out.as<bf16>() + span.first_row * out.stride + first_column * shape.group;

  // Tokens of the pages held here: those before this step, less those that a window hides from every row.
  const int64_t full_pages = span.history / kPageTokens, in_last = span.history % kPageTokens;
  int64_t held_tokens = kv.held_count(full_pages) * kPageTokens;
  if (in_last > 0 && kv.holds(full_pages)) held_tokens += in_last;
  int64_t skipped = 0;
  if (kv.window > 0 && span.history + 1 > kv.window) {
    skipped = kv.held_count((span.history + 1 - kv.window) / kPageTokens) * kPageTokens;
  }
  const int64_t capacity = SegmentCapacity(batch.max_tokens);
  const int64_t segments = held_tokens > skipped ? (held_tokens - skipped + capacity - 1) / capacity : 0;
  const int64_t partials = segments + own_square;

  DenseAttention args = {};
  args.q = q;
  args.q_stride = qkv.stride;
  args.rows = rows;
  args.heads = kv.num_heads;
  args.group = shape.group;
  args.head_dim = d;
  args.first_position = span.history;
  args.window = kv.window;
  if (partials == 0) {
    const int64_t items = int64_t{rows} * q_heads * d;
    EmptyKernel<<<(items + 255) / 256, 256, 0, Stream(device)>>>(target, out.stride, lse, rows, q_heads * d, q_heads);
    DUO_CUDA_CHECK(cudaGetLastError());
    return;
  }
  auto* part_lse = static_cast<float*>(scratch.Take(int64_t{rows} * q_heads * sizeof(float)));
  args.out = target;
  args.out_stride = out.stride;
  args.lse = lse != nullptr ? lse : part_lse;
  MergeArgs merge = {};
  if (partials > 1) {
    args.out = static_cast<bf16*>(scratch.Take(int64_t{rows} * q_heads * d * sizeof(bf16)));
    args.out_stride = int64_t{q_heads} * d;
    args.lse = part_lse;
    merge.sum = static_cast<float*>(scratch.Take(int64_t{rows} * q_heads * d * sizeof(float)));
    merge.sum_lse = static_cast<float*>(scratch.Take(int64_t{rows} * q_heads * sizeof(float)));
    merge.part = args.out;
    merge.part_lse = part_lse;
    merge.out = target;
    merge.out_stride = out.stride;
    merge.lse = lse;
    merge.rows = rows;
    merge.heads = q_heads;
  }
  int64_t done = 0;
  auto add_partial = [&] {
    FlashDense(device, args);
    ++done;
    if (partials == 1) return;
    merge.first = done == 1;
    merge.last = done == partials;
    const int64_t blocks = (int64_t{rows} * q_heads + 7) / 8;
    const auto kernel = d == 64 ? MergePartialKernel<64> : MergePartialKernel<128>;
    kernel<<<blocks, 256, 0, Stream(device)>>>(merge);
    DUO_CUDA_CHECK(cudaGetLastError());
  };

  if (own_square) {
    args.k = qkv.as<bf16>() + span.first_row * qkv.stride + shape.q_cols() + first_column;
    args.v = args.k + shape.kv_cols();
    args.token_stride = qkv.stride;
    args.head_stride = d;
    args.keys = rows;
    args.first_key = span.history;
    args.slots = args.num_slots = 1;
    add_partial();
  }
  if (segments > 0) {
    const size_t bytes = size_t{2} * kv.num_heads * capacity * d;
    auto* k = static_cast<bf16*>(scratch.Take(bytes));
    auto* v = static_cast<bf16*>(scratch.Take(bytes));
    args.k = k;
    args.v = v;
    args.token_stride = d;
    args.head_stride = capacity * d;
    args.slots = kv.slots;
    args.first_slot = kv.first_slot;
    args.num_slots = kv.num_slots;
    const int table = kv.split ? span.split_table : span.table;
    for (int64_t first = skipped; first < held_tokens; first += capacity) {
      args.keys = std::min(capacity, held_tokens - first);
      args.first_key = first;
      Gather(device, k, v, capacity, kv, table, first, args.keys);
      add_partial();
    }
  }
  scratch.Rewind(mark);
}

}  // namespace duo::cuda
