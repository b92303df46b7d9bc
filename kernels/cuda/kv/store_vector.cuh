// One K or V vector on its way to its page, by one warp: StoreKv of kernels/attention.h.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/primitives.cuh"

namespace duo::cuda {

// Where a row's vectors of one head go. Follows from what the host uploaded before the step, so that it may be looked
// up before the kernels before this one have ended.
struct StorePlace {
  bool exists = false;      // the row belongs to a sequence; a bucket's padding does not
  uint8_t* page = nullptr;  // null: it is stored nowhere, or by another rank
  int token = 0;

  __device__ __forceinline__ StorePlace() {}
  __device__ __forceinline__ StorePlace(const SeqBatch& batch, const PagedKv& kv, int64_t row, int head) {
    const int seq = batch.row_seq[row];
    if (seq < 0) return;
    const SeqSpan span = batch.spans[seq];
    if (row < span.first_row || row >= span.first_row + span.num_rows) return;
    exists = true;
    const int64_t position = batch.positions[row], number = position / kPageTokens;
    token = position % kPageTokens;
    if (span.keep_pages == 0 && kv.holds(number)) {
      page = kv.page_at(head, kv.split ? span.split_table : span.table, number);
    }
  }
};

// Encodes x, if it has a page, and leaves what that decodes to in `out`, which may be x.
template <KvFormat kFormat, int kHeadDim>
__device__ __forceinline__ void StoreVector(const bf16* x, bf16* out, const StorePlace& to, const PageLayout& layout,
                                            bool is_v) {
  constexpr int kEach = kHeadDim / 32;  // consecutive elements of a lane
  const int lane = threadIdx.x % 32;
  x += lane * kEach, out += lane * kEach;
  float values[kEach], lowest = INFINITY, highest = -INFINITY;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    values[i] = ToFloat(x[i]);
    lowest = fminf(lowest, values[i]);
    highest = fmaxf(highest, values[i]);
  }
  uint8_t* codes_at = to.page + (is_v ? layout.v_codes(to.token) : layout.k_codes(to.token));
  if constexpr (kFormat == KvFormat::kBF16) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (to.page != nullptr) reinterpret_cast<bf16*>(codes_at)[lane * kEach + i] = x[i];
      if (out != x) out[i] = x[i];
    }
  } else {
    const KvParams params = KvParamsFor(kFormat, WarpMin(lowest), WarpMax(highest));
    const float inverse = KvInverseScale(params);
    uint8_t codes[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      codes[i] = KvEncode(kFormat, values[i], params, inverse);
      out[i] = ToBf16(KvDecode(kFormat, codes[i], params));
    }
    if (to.page == nullptr) return;
    if constexpr (kFormat == KvFormat::kInt4) {
#pragma unroll
      for (int i = 0; i < kEach; i += 2) codes_at[(lane * kEach + i) / 2] = codes[i] | (codes[i + 1] << 4);
    } else {
#pragma unroll
      for (int i = 0; i < kEach; ++i) codes_at[lane * kEach + i] = codes[i];
    }
    if (lane == 0) {
      uint16_t* p =
          reinterpret_cast<uint16_t*>(to.page + (is_v ? layout.v_params(to.token) : layout.k_params(to.token)));
      p[0] = params.scale.bits;
      if constexpr (kFormat != KvFormat::kFp8) p[1] = params.min.bits;
    }
  }
}

}  // namespace duo::cuda
