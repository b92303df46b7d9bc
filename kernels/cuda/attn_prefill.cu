// Prefill attention of retrieval heads. History is gathered from pages of any codec to contiguous bf16, a segment at a
// time, and attended densely; the step's own tokens are attended from qkv; partials merge by their lse in f32.
#include <algorithm>

#include "kernels/base/cuda_check.h"
#include "kernels/cuda/attn_cudnn.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/flash.h"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int64_t kSegmentTokens = 65536;
constexpr int kCudnnRows = 512;  // fewer are cheaper in the flash kernel than padded to a bucket
constexpr int kEach = 16;        // channels a thread decodes

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
  float* sum;             // [rows][heads * head_dim]
  float* sum_lse;         // [heads][rows]
  const bf16* part;       // [rows][heads * head_dim]
  const float* part_lse;  // [heads][part_lse_stride]
  int64_t part_lse_stride;
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
      MergeWeights(a.first ? -INFINITY : a.sum_lse[head * a.rows + row], a.part_lse[head * a.part_lse_stride + row]);
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

int64_t SegmentTokens(int64_t max_tokens) {
  return std::min(kSegmentTokens, (std::max<int64_t>(max_tokens, 1) + kPageTokens - 1) / kPageTokens * kPageTokens);
}
// cuDNN's plans are for a few capacities: powers of two from kCudnnRows.
int64_t Bucket(int64_t n) {
  int64_t bucket = kCudnnRows;
  while (bucket < n) bucket *= 2;
  return bucket;
}

// Partials of one layer's prefill: computes them one by one and merges them.
class Partials {
 public:
  // `count` partials in all. The step's rows are `args`' rows, in qkv; results go to `out` and `lse`.
  Partials(Device& device, Arena& scratch, const DenseAttention& args, int64_t count, View out, float* lse)
      : device_(device), scratch_(scratch), mark_(scratch.used()), args_(args), count_(count) {
    const int64_t q_heads = int64_t{args.heads} * args.group, cols = q_heads * args.head_dim;
    cudnn_ = args.window == 0 && args.rows >= kCudnnRows && CudnnUsable(device);
    capacity_ = cudnn_ ? Bucket(args.rows) : args.rows;
    if (cudnn_) {
      auto* q = static_cast<bf16*>(scratch.Take(capacity_ * cols * sizeof(bf16)));
      CopyRows(q, cols, args.q, args.q_stride, cols);
      args_.q = q;
      args_.q_stride = cols;
    }
    args_.out = static_cast<bf16*>(scratch.Take(capacity_ * cols * sizeof(bf16)));
    args_.out_stride = cols;
    args_.lse = static_cast<float*>(scratch.Take(capacity_ * q_heads * sizeof(float)));
    args_.lse_stride = capacity_;
    if (count > 1) {
      merge_.sum = static_cast<float*>(scratch.Take(args.rows * cols * sizeof(float)));
      merge_.sum_lse = static_cast<float*>(scratch.Take(args.rows * q_heads * sizeof(float)));
    }
    merge_.part = args_.out;
    merge_.part_lse = args_.lse;
    merge_.part_lse_stride = capacity_;
    merge_.out = out.as<bf16>();
    merge_.out_stride = out.stride;
    merge_.lse = lse;
    merge_.rows = args.rows;
    merge_.heads = static_cast<int>(q_heads);
  }
  ~Partials() { scratch_.Rewind(mark_); }

  bool cudnn() const { return cudnn_; }
  // Keys' stride between heads, in tokens, for `keys` keys in scratch.
  int64_t KeyCapacity(int64_t keys) const { return cudnn_ ? Bucket(keys) : keys; }
  void CopyRows(bf16* to, int64_t to_stride, const bf16* from, int64_t from_stride, int64_t cols) {
    DUO_CUDA_CHECK(cudaMemcpy2DAsync(to, to_stride * sizeof(bf16), from, from_stride * sizeof(bf16),
                                     cols * sizeof(bf16), args_.rows, cudaMemcpyDeviceToDevice, Stream(device_)));
  }

  // Keys [head][KeyCapacity(keys)][head_dim] in scratch, or, without cuDNN, wherever `keys` says.
  void Add(const DenseAttention& keys, bool causal) {
    args_.k = keys.k;
    args_.v = keys.v;
    args_.token_stride = keys.token_stride;
    args_.head_stride = keys.head_stride;
    args_.keys = keys.keys;
    args_.first_key = keys.first_key;
    args_.slots = keys.slots;
    args_.first_slot = keys.first_slot;
    args_.num_slots = keys.num_slots;
    bool done = false;
    if (cudnn_) {
      CudnnShape shape = {args_.heads, args_.group, args_.head_dim, capacity_, KeyCapacity(keys.keys), causal, false};
      shape.whole = args_.rows == shape.row_capacity && args_.keys == shape.key_capacity;
      done = CudnnAttend(device_, shape, args_);
    }
    if (!done) FlashDense(device_, args_);
    ++done_;
    merge_.first = done_ == 1;
    merge_.last = done_ == count_;
    const int64_t blocks = (merge_.rows * merge_.heads + 7) / 8;
    const auto kernel = args_.head_dim == 64 ? MergePartialKernel<64> : MergePartialKernel<128>;
    kernel<<<blocks, 256, 0, Stream(device_)>>>(merge_);
    DUO_CUDA_CHECK(cudaGetLastError());
  }

 private:
  Device& device_;
  Arena& scratch_;
  const size_t mark_;
  DenseAttention args_;
  const int64_t count_;
  int64_t done_ = 0;
  bool cudnn_ = false;
  int64_t capacity_ = 0;
  MergeArgs merge_ = {};
};

}  // namespace

size_t PrefillScratchBytes(const Device&, int rows, int group, const PagedKv& kv, int64_t max_tokens) {
  const int64_t d = kv.page.head_dim, heads = kv.num_heads, q_heads = heads * group;
  const int64_t capacity = Bucket(rows), keys = std::max(capacity, Bucket(SegmentTokens(max_tokens)));
  return 2 * Arena::Rounded(heads * keys * d * sizeof(bf16)) +          // K and V
         2 * Arena::Rounded(capacity * q_heads * d * sizeof(bf16)) +    // q, one partial's result
         Arena::Rounded(int64_t{rows} * q_heads * d * sizeof(float)) +  // their sum
         Arena::Rounded(capacity * q_heads * sizeof(float)) + Arena::Rounded(int64_t{rows} * q_heads * sizeof(float));
}

void AttendPrefill(Device& device, View out, float* lse, View qkv, const HeadShape& shape, const SeqBatch& batch,
                   const PagedKv& kv, bool own_square, Arena& scratch) {
  const SeqSpan& span = batch.host_spans[0];
  const int rows = span.num_rows, d = shape.head_dim, q_heads = kv.num_heads * shape.group;
  const int64_t first_column = int64_t{kv.first_head} * d;
  const View target = out.Rows(span.first_row, rows).Cols(first_column * shape.group, int64_t{q_heads} * d);

  // Tokens of the pages held here: those before this step, less those that a window hides from every row.
  const int64_t full_pages = span.history / kPageTokens, in_last = span.history % kPageTokens;
  int64_t held_tokens = kv.held_count(full_pages) * kPageTokens;
  if (in_last > 0 && kv.holds(full_pages)) held_tokens += in_last;
  int64_t skipped = 0;
  if (kv.window > 0 && span.history + 1 > kv.window) {
    skipped = kv.held_count((span.history + 1 - kv.window) / kPageTokens) * kPageTokens;
  }
  const int64_t segment = SegmentTokens(batch.max_tokens);
  const int64_t segments = held_tokens > skipped ? (held_tokens - skipped + segment - 1) / segment : 0;
  if (segments == 0 && !own_square) {
    const int64_t items = int64_t{rows} * q_heads * d;
    EmptyKernel<<<(items + 255) / 256, 256, 0, Stream(device)>>>(target.as<bf16>(), target.stride, lse, rows,
                                                                 q_heads * d, q_heads);
    DUO_CUDA_CHECK(cudaGetLastError());
    return;
  }

  DenseAttention args = {};
  args.q = qkv.as<bf16>() + span.first_row * qkv.stride + first_column * shape.group;
  args.q_stride = qkv.stride;
  args.rows = rows;
  args.heads = kv.num_heads;
  args.group = shape.group;
  args.head_dim = d;
  args.first_position = span.history;
  args.window = kv.window;
  const size_t mark = scratch.used();
  {
    Partials partials(device, scratch, args, segments + own_square, target, lse);
    const int64_t tokens = std::max(own_square && partials.cudnn() ? partials.KeyCapacity(rows) : 0,
                                    segments > 0 ? partials.KeyCapacity(std::min(segment, held_tokens - skipped)) : 0);
    auto* k = static_cast<bf16*>(scratch.Take(kv.num_heads * tokens * d * sizeof(bf16)));
    auto* v = static_cast<bf16*>(scratch.Take(kv.num_heads * tokens * d * sizeof(bf16)));
    // A partial product with a key past the last one is 0 times its V, which must be finite.
    auto clear_tail = [&](int64_t keys, int64_t capacity) {
      const int64_t tail = std::min(capacity, (keys + 255) / 256 * 256) - keys;
      if (!partials.cudnn() || tail == 0) return;
      for (bf16* x : {k, v}) {
        DUO_CUDA_CHECK(cudaMemset2DAsync(x + keys * d, capacity * d * sizeof(bf16), 0, tail * d * sizeof(bf16),
                                         kv.num_heads, Stream(device)));
      }
    };
    if (own_square) {
      DenseAttention own = {};
      own.k = qkv.as<bf16>() + span.first_row * qkv.stride + shape.q_cols() + first_column;
      own.v = own.k + shape.kv_cols();
      own.token_stride = qkv.stride;
      own.head_stride = d;
      own.keys = rows;
      own.first_key = span.history;
      own.slots = own.num_slots = 1;
      if (partials.cudnn()) {
        const int64_t capacity = partials.KeyCapacity(rows);
        for (int head = 0; head < kv.num_heads; ++head) {
          partials.CopyRows(k + head * capacity * d, d, own.k + head * d, qkv.stride, d);
          partials.CopyRows(v + head * capacity * d, d, own.v + head * d, qkv.stride, d);
        }
        clear_tail(rows, capacity);
        own.k = k;
        own.v = v;
        own.token_stride = d;
        own.head_stride = capacity * d;
      }
      partials.Add(own, true);
    }
    for (int64_t first = skipped; first < held_tokens; first += segment) {
      DenseAttention keys = {};
      keys.keys = std::min(segment, held_tokens - first);
      const int64_t capacity = partials.KeyCapacity(keys.keys);
      keys.k = k;
      keys.v = v;
      keys.token_stride = d;
      keys.head_stride = capacity * d;
      keys.first_key = first;
      keys.slots = kv.slots;
      keys.first_slot = kv.first_slot;
      keys.num_slots = kv.num_slots;
      Gather(device, k, v, capacity, kv, kv.split ? span.split_table : span.table, first, keys.keys);
      clear_tail(keys.keys, capacity);
      partials.Add(keys, false);
    }
  }
  scratch.Rewind(mark);
}

}  // namespace duo::cuda
