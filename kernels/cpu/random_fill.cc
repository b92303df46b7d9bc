#include "kernels/random_fill.h"

#include <algorithm>

#include "kernels/backend.h"
#include "kernels/base/math.h"

namespace duo::cpu {

void FillElements(Device& device, const FillRun& run, uint64_t seed) {
  const int64_t total = run.count * run.runs, block = 1 << 16;
  device.pool().ParallelFor(CeilDiv(total, block), [&](int64_t b, int) {
    for (int64_t at = b * block; at < std::min(total, (b + 1) * block); ++at) FillElement(run, seed, at);
  });
}

}  // namespace duo::cpu
