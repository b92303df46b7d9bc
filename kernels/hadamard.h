// The Hadamard rotation of queries and keys. Why: int4 has 16 levels between a key's smallest and largest channel, and
// a few channels of most models' keys are many times larger than the others, so that the others are left one or two
// levels. Rotating query and key by the same orthogonal matrix changes no score and spreads each channel over all
// channels: SmolLM2's perplexity under int4 KV rises by 6 % instead of 14. Sylvester's construction, H_2n = [H_n H_n;
// H_n -H_n], scaled by 1 / sqrt(n); a head size that is no power of two is rotated in blocks of its largest power of
// two.
#pragma once

#include <cmath>

#include "kernels/base/dtype.h"

namespace duo {

DUO_HD constexpr int HadamardBlock(int head_dim) { return head_dim & -head_dim; }

// x [head_dim], in place, head_dim log2(block) additions. Its own inverse, up to rounding.
inline void HadamardRotate(float* x, int head_dim) {
  const int block = HadamardBlock(head_dim);
  for (int width = 1; width < block; width *= 2) {
    for (int first = 0; first < head_dim; first += 2 * width) {
      for (int i = first; i < first + width; ++i) {
        const float a = x[i], b = x[i + width];
        x[i] = a + b;
        x[i + width] = a - b;
      }
    }
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(block));
  for (int i = 0; i < head_dim; ++i) x[i] *= scale;
}

}  // namespace duo
