// Plain attention: one row over every key of a sequence's pages, in order, in f64, a head's keys never split. Slow; it
// is the yardstick of the fast kernels at lengths that no host reference can reach (`duo bench capacity`). CPU and
// CUDA; allocates nothing; asynchronous on CUDA.
#pragma once

#include "kernels/attention.h"

namespace duo {

// The first `tokens` tokens of a sequence, whose pages table `table` names.
struct StoredTokens {
  int table = 0;
  int64_t tokens = 0;
};

// out [num_heads * group][head_dim] f32, device: softmax(q.k / sqrt(d)) v over these tokens; q is qkv's row 0 (T, in
// the layout of AttendPages), kv whole heads without a window, head_dim at most 256.
void AttendPlain(Device& device, float* out, View qkv, const HeadShape& shape, const PagedKv& kv,
                 const StoredTokens& keys);

// One element of a stored key or value, as its format defines it.
DUO_HD inline float PlainValue(const PageLayout& layout, const uint8_t* page, bool is_v, int token, int channel) {
  const uint8_t* codes = page + (is_v ? layout.v_codes(token) : layout.k_codes(token));
  const uint8_t* params = page + (is_v ? layout.v_params(token) : layout.k_params(token));
  if (layout.format == KvFormat::kF32) return reinterpret_cast<const float*>(codes)[channel];
  if (layout.format == KvFormat::kBF16) return ToFloat(reinterpret_cast<const bf16*>(codes)[channel]);
  const f16* stored = reinterpret_cast<const f16*>(params);
  const KvParams p = {stored[0], layout.format == KvFormat::kFp8 ? f16{0} : stored[1]};
  const bool nibble = layout.format == KvFormat::kInt4;
  const uint8_t code = nibble ? (codes[channel / 2] >> (4 * (channel % 2))) & 15 : codes[channel];
  return KvDecode(layout.format, code, p);
}

}  // namespace duo
