// Copies between the layouts of prefill: pages of any codec, and columns of qkv, to contiguous bf16 by head.
#pragma once

#include "kernels/attention.h"

namespace duo::cuda {

// Tokens [first, first + count) of the pages held here, decoded -> k, v [head][capacity][head_dim].
void GatherPages(Device& device, bf16* k, bf16* v, int64_t capacity, const PagedKv& kv, int table, int64_t first,
                 int64_t count);
// rows x (heads * head_dim) columns, row stride `stride` -> to [head][capacity][head_dim].
void SplitHeads(Device& device, bf16* to, int64_t capacity, const bf16* from, int64_t stride, int64_t rows, int heads,
                int head_dim);

}  // namespace duo::cuda
