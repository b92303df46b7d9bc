// Plain attention: one row over every key of a sequence's pages, in order, in f64, a head's keys never split. It is the
// yardstick for the fast kernels at lengths that no host reference can reach (`duo bench capacity`), and slow.
// CPU and CUDA; allocates nothing; asynchronous on CUDA.
#pragma once

#include "kernels/attention.h"

namespace duo {

// out [num_heads * group][head_dim] f32, device: softmax(q.k / sqrt(d)) v over the first `tokens` tokens of table
// `table`; q is qkv's row 0 (T, in the layout of AttendPages), kv whole heads without a window, head_dim at most 256.
void AttendPlain(Device& device, float* out, View qkv, const HeadShape& shape, const PagedKv& kv, int table,
                 int64_t tokens);

// One element of a stored key or value, as its format defines it.
DUO_HD inline float PlainValue(const PageLayout& layout, const uint8_t* page, bool is_v, int token, int channel) {
  const uint8_t* codes = page + (is_v ? layout.v_codes(token) : layout.k_codes(token));
  const uint8_t* params = page + (is_v ? layout.v_params(token) : layout.k_params(token));
  switch (layout.format) {
    case KvFormat::kF32:
      return reinterpret_cast<const float*>(codes)[channel];
    case KvFormat::kBF16:
      return ToFloat(reinterpret_cast<const bf16*>(codes)[channel]);
    case KvFormat::kFp8:
      return KvDecode(layout.format, codes[channel], {*reinterpret_cast<const f16*>(params), f16{0}});
    case KvFormat::kInt8:
      return KvDecode(layout.format, codes[channel], *reinterpret_cast<const KvParams*>(params));
    case KvFormat::kInt4:
      return KvDecode(layout.format, (codes[channel / 2] >> (4 * (channel % 2))) & 15,
                      *reinterpret_cast<const KvParams*>(params));
  }
  return 0;
}

}  // namespace duo
