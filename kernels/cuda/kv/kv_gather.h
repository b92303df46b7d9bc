// Copies between the layouts of prefill: pages of any codec, and columns of qkv, to contiguous bf16 by head.
#pragma once

#include "kernels/attention.h"

namespace duo::cuda {

// Where gathered vectors go: token t of head h (of the count gathered) to h * head_stride + t / 128 * page_stride +
// t % 128 * head_dim elements.
struct GatherLayout {
  int64_t head_stride, page_stride;
  static GatherLayout Contiguous(int64_t capacity, int head_dim) {
    return {capacity * head_dim, int64_t{kPageTokens} * head_dim};
  }
};
// Tokens [first, first + count) of the pages held here, decoded -> k, v. With a layout whose pages are not contiguous,
// `first` is a page's first token.
void GatherPages(Device& device, bf16* k, bf16* v, GatherLayout to, const PagedKv& kv, int table, int64_t first,
                 int64_t count);
// from [rows, heads * head_dim] bf16 -> to [head][capacity][head_dim].
void SplitHeads(Device& device, bf16* to, int64_t capacity, View from, int head_dim);

}  // namespace duo::cuda
