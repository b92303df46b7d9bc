// Which keys of a whole sequence in qkv a streaming head's row sees: sinks and a band. Positions are rows.
#pragma once

#include "kernels/backward.h"

namespace duo::cuda {

struct WindowKeys {
  const bf16* k;  // column of the first head's K in qkv; V is v_offset further
  int64_t v_offset, qkv_stride;
  int head_dim;
  WindowMask mask;

  struct Block {
    const bf16 *k, *v;
  };
  __device__ Block Make(int head, int) const {
    const bf16* first = k + int64_t{head} * head_dim;
    return {first, first + v_offset};
  }
  __device__ const bf16* K(const Block& b, int64_t j) const { return b.k + j * qkv_stride; }
  __device__ const bf16* V(const Block& b, int64_t j) const { return b.v + j * qkv_stride; }
  // Two ranges of keys hold all that rows [low, high] may see.
  __device__ void Ranges(const Block&, int64_t low, int64_t high, int64_t (&begin)[2], int64_t (&end)[2]) const {
    const int64_t first = mask.window > 0 ? max(int64_t{0}, low - mask.window + 1) : 0;
    end[0] = min(int64_t{mask.sink}, high + 1);
    begin[0] = min(first, end[0]);
    end[1] = high + 1;
    begin[1] = min(max(max(int64_t{mask.sink}, low - mask.recent), first), end[1]);
  }
  __device__ bool SeenByAll(const Block&, int64_t first, int64_t last, int64_t low, int64_t high) const {
    if (last > low || (mask.window > 0 && high - first >= mask.window)) return false;
    return last < mask.sink || high - first <= mask.recent;
  }
  __device__ bool Sees(const Block&, int64_t row, int64_t j) const {
    if (j > row || (mask.window > 0 && row - j >= mask.window)) return false;
    return j < mask.sink || row - j <= mask.recent;
  }
};

}  // namespace duo::cuda
