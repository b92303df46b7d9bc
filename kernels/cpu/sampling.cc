// Sampling from one shard of the vocabulary.
#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "kernels/backend.h"

namespace duo::cpu {
namespace {

// An upper bound on SampleNoise's value from its random bits, without a logarithm: -log u >= 1 - u, and 1 - u is at
// least 2^-(z + 1) for z leading ones. A little slack covers rounding; near u = 1 there is no bound.
float NoiseBound(uint64_t bits) {
  const int ones = std::countl_one(bits);
  return ones >= 50 ? INFINITY : (ones + 1) * 0.69315f + 1e-3f;
}

ShardSample SampleRow(const float* logits, int64_t count, int32_t first_id, const SampleParams& p) {
  const bool greedy = p.temperature < kGreedyBelow;
  const float t = greedy ? 1.0f : p.temperature;
  float top = -INFINITY;
  for (int64_t i = 0; i < count; ++i) top = std::max(top, logits[i] / t);
  ShardSample best{-INFINITY, -INFINITY, first_id};
  double sum = 0;
  const uint64_t key = SplitMix64(p.seed ^ SplitMix64(static_cast<uint64_t>(p.position)));
  for (int64_t i = 0; i < count; ++i) {
    const float x = logits[i] / t;
    const int32_t id = first_id + static_cast<int32_t>(i);
    sum += top > -INFINITY ? std::exp(x - top) : std::isnan(x) ? x : 0;  // a NaN reaches lse, wherever it stands
    if (!greedy && x + NoiseBound(SplitMix64(key ^ static_cast<uint64_t>(id))) < best.value) continue;
    const float value = greedy ? x : x + SampleNoise(p.seed, p.position, id);
    if (value > best.value) {
      best.value = value;
      best.id = id;
    }
  }
  if (top > -INFINITY || std::isnan(sum)) best.lse = top + static_cast<float>(std::log(sum));
  return best;
}

}  // namespace

void SampleShard(Device& device, ShardSample* out, View logits, int32_t first_id, const SampleParams* params) {
  device.pool().ParallelFor(logits.rows, [&](int64_t row, int) {
    out[row] = SampleRow(logits.as<float>() + row * logits.stride, logits.cols, first_id, params[row]);
  });
}

void EditLogits(Device&, View logits, int32_t first_id, const LogitEdit* edits, int count, const uint32_t* mask) {
  auto* x = logits.as<float>();
  for (int i = 0; i < count; ++i) {
    float& logit = x[edits[i].id - first_id];
    const float divided = logit > 0 ? logit / edits[i].divide : logit * edits[i].divide;
    logit = divided + edits[i].add;
  }
  if (mask == nullptr) return;
  const int32_t first_word = first_id / 32;
  for (int64_t i = 0; i < logits.cols; ++i) {
    const int64_t id = first_id + i;
    if ((mask[id / 32 - first_word] >> (id % 32) & 1) == 0) x[i] = -INFINITY;
  }
}

size_t TopLogitsScratchBytes(const Device& device, int64_t, int64_t shard, int) {
  return Arena::Rounded(shard * sizeof(int32_t)) * device.pool().threads();
}

void TopLogits(Device& device, const LargestLogits& out, View logits, int32_t first_id, Arena& scratch) {
  const int count = out.count;
  const size_t mark = scratch.used();
  const size_t bytes = Arena::Rounded(logits.cols * sizeof(int32_t));
  char* orders = static_cast<char*>(scratch.Take(bytes * device.pool().threads()));
  device.pool().ParallelFor(logits.rows, [&](int64_t row, int thread) {
    const float* x = logits.as<float>() + row * logits.stride;
    int32_t* order = reinterpret_cast<int32_t*>(orders + thread * bytes);
    std::iota(order, order + logits.cols, 0);
    const auto before = [x](int32_t a, int32_t b) { return x[a] > x[b] || (x[a] == x[b] && a < b); };
    std::nth_element(order, order + (count - 1), order + logits.cols, before);
    std::sort(order, order + count, before);
    for (int i = 0; i < count; ++i) {
      out.values[row * count + i] = x[order[i]];
      out.ids[row * count + i] = first_id + order[i];
    }
  });
  scratch.Rewind(mark);
}

}  // namespace duo::cpu
