#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/backend.h"

namespace duo::cpu {

void AttendPlain(Device& device, float* out, View qkv, const HeadShape& shape, const PagedKv& kv,
                 const StoredTokens& keys) {
  const int d = shape.head_dim;
  device.pool().ParallelFor(kv.num_heads * shape.group, [&](int64_t head, int) {
    const float* q = qkv.as<float>() + (int64_t{kv.first_head} * shape.group + head) * d;
    std::vector<double> o(d, 0.0);
    double top = -INFINITY, sum = 0;
    for (int64_t t = 0; t < keys.tokens; ++t) {
      const uint8_t* page = kv.page_at(static_cast<int>(head) / shape.group, keys.table, t / kPageTokens);
      const int in_page = t % kPageTokens;
      double score = 0;
      for (int c = 0; c < d; ++c) score += double{q[c]} * PlainValue(kv.page, page, false, in_page, c);
      score /= std::sqrt(double(d));
      const double next = std::max(top, score), keep = std::exp(top - next), weight = std::exp(score - next);
      sum = sum * keep + weight;
      for (int c = 0; c < d; ++c) o[c] = o[c] * keep + weight * PlainValue(kv.page, page, true, in_page, c);
      top = next;
    }
    for (int c = 0; c < d; ++c) out[head * d + c] = static_cast<float>(o[c] / sum);
  });
}

}  // namespace duo::cpu
