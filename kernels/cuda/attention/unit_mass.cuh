// Where a row looked, as decode attention passes by (kernels/attention_mass.h): of each unit of keys that a warp
// attends to, the log of the sum of their weights.
#pragma once

#include "kernels/attention_mass.h"
#include "kernels/cuda/primitives.cuh"

namespace duo::cuda {

// Keys that one page has several units of.
struct UnitPlace {
  int page, part;  // the part of the page
  bool last;       // the sequence ends in it
};

// sums: of the lane's own keys of columns 2 c and 2 c + 1 (decode_tile.cuh), over the references `tops` in log2 units.
// For a warp, whose lanes all call it.
template <int kUnit>
__device__ __forceinline__ void KeepUnitMass(const MassOut& mass, int group, int head, int first_column,
                                             const UnitPlace& place, const float (&sums)[2], const float (&tops)[2]) {
  constexpr int kParts = kPageTokens / kUnit;
  const int lane = threadIdx.x % 32, c = lane % 4;
  const int place_of_head = __popcll(mass.heads & ((uint64_t{1} << head) - 1));
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    float sum = sums[j];
    sum += __shfl_xor_sync(0xffffffffu, sum, 4);
    sum += __shfl_xor_sync(0xffffffffu, sum, 8);
    sum += __shfl_xor_sync(0xffffffffu, sum, 16);
    const int q_head = first_column + 2 * c + j;
    if (lane >= 4 || q_head >= group) continue;
    const int64_t row = int64_t{place_of_head} * group + q_head;
    float* logs = mass.logs + (row * mass.pages + place.page) * kParts;
    logs[place.part] = (tops[j] + log2f(sum)) * kLn2;
    if (!place.last) continue;
    for (int part = place.part + 1; part < kParts; ++part) logs[part] = -INFINITY;  // nobody comes by there
  }
}

}  // namespace duo::cuda
