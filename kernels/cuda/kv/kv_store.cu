// Storing K and V: codes into pages, bf16 into rings, and the copies that forks need. One warp handles one vector.
#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/kv/kv_formats.cuh"
#include "kernels/cuda/kv/store_vector.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

// One warp per (row, head, K or V).
template <KvFormat kFormat, int kHeadDim>
__global__ void StoreKvKernel(bf16* qkv, int64_t stride, HeadShape shape, SeqBatch batch, PagedKv kv) {
  LetDependentsStart();
  const int64_t item = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  if (item >= int64_t{batch.num_rows} * kv.num_heads * 2) return;
  const bool is_v = item % 2;
  const int head = item / 2 % kv.num_heads;
  const int64_t row = item / 2 / kv.num_heads;
  const StorePlace to(batch, kv, row, head);
  WaitForDependency();
  if (!to.exists) return;
  const int64_t column = shape.q_cols() + (is_v ? shape.kv_cols() : 0) + int64_t{kv.first_head + head} * kHeadDim;
  bf16* x = qkv + row * stride + column;
  StoreVector<kFormat, kHeadDim>(x, x, to, kv.page, is_v);
}

// One warp per (row, head): rows that a ring keeps after this step.
__global__ void StoreRingsKernel(const bf16* qkv, int64_t stride, HeadShape shape, SeqBatch batch, RingKv kv) {
  LetDependentsStart();
  const int64_t item = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (item >= int64_t{batch.num_rows} * kv.num_heads) return;
  const int head = item % kv.num_heads;
  const int64_t row = item / kv.num_heads;
  const int seq = batch.row_seq[row];
  const SeqSpan span = seq < 0 ? SeqSpan{} : batch.spans[seq];
  const int64_t position = batch.positions[row], end = int64_t{span.history} + span.num_rows;
  WaitForDependency();
  if (row < span.first_row || row >= span.first_row + span.num_rows) return;  // of no sequence, too
  if (position >= kv.sink && position < end - (kv.slots() - kv.sink)) return;
  const bf16* k = qkv + row * stride + shape.q_cols() + int64_t{kv.first_head + head} * kv.head_dim;
  const int slot = kv.slot_of(position);
  uint32_t* k_to = reinterpret_cast<uint32_t*>(kv.k_at(span.ring, head, slot));
  uint32_t* v_to = reinterpret_cast<uint32_t*>(kv.v_at(span.ring, head, slot));
  for (int i = lane; i < kv.head_dim / 2; i += 32) {
    k_to[i] = reinterpret_cast<const uint32_t*>(k)[i];
    v_to[i] = reinterpret_cast<const uint32_t*>(k + shape.kv_cols())[i];
  }
}

__global__ void CopyPageKernel(PagedKv kv, int32_t from, int32_t to) {
  uint8_t* head = kv.base + blockIdx.y * kv.head_stride;
  const uint4* source = reinterpret_cast<const uint4*>(head + from * kv.id_stride());
  uint4* target = reinterpret_cast<uint4*>(head + to * kv.id_stride());
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < kv.id_stride() / 16) target[i] = source[i];
}

// The entries of a head among those gathered, known before the kernels ahead have ended: up to 64 by a bit each.
class EntriesOfHead {
 public:
  __device__ __forceinline__ EntriesOfHead(const GatheredLse& all, int32_t id) : all_(all), id_(id) {
    if (gathered() > 64) return;
    const int lane = threadIdx.x % 32;
    uint32_t half[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int e = lane + 32 * h;
      half[h] = __ballot_sync(0xffffffffu, e < gathered() && all.ids[min(e, gathered() - 1)] == id);
    }
    mask_ = half[0] | static_cast<uint64_t>(half[1]) << 32;
  }
  // Calls visit(lse) in all lanes of a warp, for each entry in order.
  template <typename Visit>
  __device__ __forceinline__ void ForEach(int64_t rows, int64_t row, const Visit& visit) const {
    if (gathered() <= 64) {
      for (uint64_t left = mask_; left != 0; left &= left - 1) {
        visit(all_.lse[(__ffsll(static_cast<long long>(left)) - 1) * rows + row]);
      }
      return;
    }
    for (int base = 0; base < gathered(); base += 32) {
      const int e = base + threadIdx.x % 32;
      const bool mine = e < gathered() && all_.ids[e] == id_;
      const float lse = mine ? all_.lse[e * rows + row] : 0.0f;
      for (uint32_t left = __ballot_sync(0xffffffffu, mine); left != 0; left &= left - 1) {
        visit(__shfl_sync(0xffffffffu, lse, __ffs(left) - 1));
      }
    }
  }

 private:
  __device__ __forceinline__ int gathered() const { return all_.ranks * all_.entries; }

  const GatheredLse& all_;
  int32_t id_;
  uint64_t mask_ = 0;
};

// A block has 64 threads. What it reads is asked for together, not one after the other.
__global__ void ScaleSplitHeadsKernel(bf16* out, int64_t stride, int64_t rows, int head_dim, GatheredLse all) {
  LetDependentsStart();
  constexpr int kEach = 4;  // channels of a thread; more are read later
  const int64_t row = blockIdx.x;
  const int head = blockIdx.y, own = all.rank * all.entries + head;
  const EntriesOfHead entries(all, all.ids[own]);
  const float sink = all.sinks == nullptr ? -INFINITY : all.sinks[head];
  WaitForDependency();
  bf16* x = out + row * stride + int64_t{head} * head_dim;
  bf16 first[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int c = static_cast<int>(threadIdx.x) + 64 * i;
    first[i] = c < head_dim ? x[c] : ToBf16(0.0f);
  }
  const float own_lse = all.lse[own * rows + row];
  float top = sink;
  entries.ForEach(rows, row, [&](float lse) { top = fmaxf(top, lse); });
  float sum = 0;
  if (top > -INFINITY) {
    sum = expf(sink - top);
    entries.ForEach(rows, row, [&](float lse) { sum += expf(lse - top); });
  }
  const float weight = sum > 0 ? expf(own_lse - top) / sum : 0.0f;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int c = static_cast<int>(threadIdx.x) + 64 * i;
    if (c < head_dim) x[c] = ToBf16(ToFloat(first[i]) * weight);
  }
  for (int c = threadIdx.x + 64 * kEach; c < head_dim; c += 64) x[c] = ToBf16(ToFloat(x[c]) * weight);
}

__global__ void MergePartialKernel(bf16* out, int64_t stride, float* lse, const bf16* part, int64_t part_stride,
                                   const float* part_lse, int64_t rows, int head_dim) {
  StartOverlapped();
  const int64_t row = blockIdx.x;
  const int head = blockIdx.y;
  const MergedWeights w = MergeWeights(lse[head * rows + row], part_lse[head * rows + row]);
  __syncthreads();  // all have read it
  if (threadIdx.x == 0) lse[head * rows + row] = w.lse;
  bf16* x = out + row * stride + int64_t{head} * head_dim;
  const bf16* y = part + row * part_stride + int64_t{head} * head_dim;
  for (int c = threadIdx.x; c < head_dim; c += blockDim.x) x[c] = ToBf16(w.a * ToFloat(x[c]) + w.b * ToFloat(y[c]));
}

}  // namespace

absl::Status CheckAttention(const Device& device, int head_dim, int group, KvFormat format) {
  if (head_dim != 64 && head_dim != 128) {
    return absl::UnimplementedError(
        absl::StrCat("attention on ", device.info().name, " needs a head dimension of 64 or 128, not ", head_dim));
  }
  if (group < 1) return absl::InvalidArgumentError(absl::StrCat("a KV head cannot serve ", group, " query heads"));
  if (format == KvFormat::kF32) return absl::InvalidArgumentError("f32 KV is for the CPU; on CUDA the widest is bf16");
  return absl::OkStatus();
}

void StoreKv(Device& device, const StepRows& rows, const PagedKv& kv) {
  const View& qkv = rows.qkv;
  const HeadShape& shape = rows.shape;
  const SeqBatch& batch = rows.batch;
  const int64_t warps = int64_t{batch.num_rows} * kv.num_heads * 2;
  VisitFormat(kv.page.format, [&](auto chosen) {
    const auto kernel = shape.head_dim == 64 ? StoreKvKernel<chosen(), 64> : StoreKvKernel<chosen(), 128>;
    LaunchOverlapped(device, kernel, dim3(CeilDiv(warps, 8)), dim3(256), 0, qkv.as<bf16>(), qkv.stride, shape, batch,
                     kv);
  });
}

// Activations are bf16, as the rings are: nothing to round.
void RoundToRing(Device&, View, const HeadShape&, const RingKv& kv) { DUO_CHECK(kv.format == KvFormat::kBF16); }

void StoreRings(Device& device, const StepRows& rows, const RingKv& kv) {
  const View& qkv = rows.qkv;
  const HeadShape& shape = rows.shape;
  const SeqBatch& batch = rows.batch;
  DUO_CHECK(kv.format == KvFormat::kBF16);
  const int64_t warps = int64_t{batch.num_rows} * kv.num_heads;
  LaunchOverlapped(device, StoreRingsKernel, dim3(CeilDiv(warps, 8)), dim3(256), 0, qkv.as<bf16>(), qkv.stride, shape,
                   batch, kv);
}

void ScaleSplitHeads(Device& device, View out, int head_dim, int heads, const GatheredLse& all) {
  LaunchOverlapped(device, ScaleSplitHeadsKernel, dim3(out.rows, heads), dim3(64), 0, out.as<bf16>(), out.stride,
                   out.rows, head_dim, all);
}

void MergePartial(Device& device, const Partial& to, const Partial& part, int heads) {
  const View& out = to.out;
  LaunchOverlapped(device, MergePartialKernel, dim3(out.rows, heads), dim3(64), 0, out.as<bf16>(), out.stride, to.lse,
                   part.out.as<bf16>(), part.out.stride, part.lse, out.rows, static_cast<int>(out.cols / heads));
}

void CopyPage(Device& device, const PagedKv& kv, int32_t from_id, int32_t to_id) {
  if (kv.num_heads == 0) return;
  const int64_t vectors = kv.id_stride() / 16;
  CopyPageKernel<<<dim3(CeilDiv(vectors, 256), kv.num_heads), 256, 0, Stream(device)>>>(kv, from_id, to_id);
  DUO_CUDA_CHECK(cudaGetLastError());
}

}  // namespace duo::cuda
