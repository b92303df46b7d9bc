// SplitMix64's mixing function (Steele, Lea and Flood, 2014), one step from state x: a counter in, 64 well mixed bits
// out. Sampling noise, the order of ties and test data are made with this function, so that they are the same
// everywhere. Pure, thread-safe.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"

namespace duo {

DUO_HD inline uint64_t SplitMix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

}  // namespace duo
