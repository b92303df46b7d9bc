#include "parallel/shard.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/check.h"
#include "kernels/base/math.h"
#include "parallel/range_sizes.h"

namespace duo {

Range QueryRows(const ModelShape& shape, int kv_head) {
  const int64_t rows = int64_t{shape.group()} * shape.head_dim;
  return {kv_head * rows, (kv_head + 1) * rows};
}

Range KvRows(const ModelShape& shape, int kv_head) {
  return {int64_t{kv_head} * shape.head_dim, int64_t{kv_head + 1} * shape.head_dim};
}

namespace {

// Where the first of so many ranks' ranges end, `share` being the sum of their shares, added up in their order.
int64_t Boundary(int64_t total, double share, int64_t granularity) {
  const int64_t units = CeilDiv(total, granularity);
  return std::min<int64_t>(total, std::llround(share * static_cast<double>(units)) * granularity);
}

}  // namespace

Range ProportionalRange(int64_t total, const std::vector<double>& shares, int rank, int64_t granularity) {
  DUO_CHECK_GE(granularity, 1);
  DUO_CHECK_LT(rank, static_cast<int>(shares.size()));
  double share = 0;
  for (int r = 0; r < rank; ++r) share += shares[r];
  const int64_t begin = Boundary(total, share, granularity);
  const bool last = rank + 1 == static_cast<int>(shares.size());
  return {begin, last ? total : Boundary(total, share + shares[rank], granularity)};
}

std::vector<int64_t> RangeSizes(int64_t total, const std::vector<double>& shares, int64_t granularity) {
  DUO_CHECK_GE(granularity, 1);
  std::vector<int64_t> sizes;
  double share = 0;
  int64_t begin = 0;
  for (size_t r = 0; r < shares.size(); ++r) {
    share += shares[r];
    const int64_t end = r + 1 == shares.size() ? total : Boundary(total, share, granularity);
    sizes.push_back(end - begin);
    begin = end;
  }
  return sizes;
}

int64_t PreferredGranularity(int64_t total, int world) {
  int64_t best = 1;
  double best_excess = INFINITY;
  for (int64_t granularity = 128; granularity >= 1; granularity /= 2) {
    const int64_t units = CeilDiv(total, granularity);
    const double excess = static_cast<double>(CeilDiv(units, world) * granularity) * world / total;
    if (excess <= 1.01) return granularity;
    if (excess < best_excess) {
      best = granularity;
      best_excess = excess;
    }
  }
  return best;
}

RankShard MakeShard(const Partition& partition, const ModelShape& shape, int rank, int64_t ffn_granularity,
                    int64_t vocab_granularity, const ExpertGranularity& experts) {
  DUO_CHECK_LT(rank, partition.world);
  RankShard shard;
  shard.rank = rank;
  for (const std::vector<RankHeads>& layer : partition.layers) {
    // A head that an earlier rank holds unsplit as well is a copy.
    const auto is_copy = [&](int head) {
      for (int r = 0; r < rank; ++r) {
        if (std::count(layer[r].whole.begin(), layer[r].whole.end(), head) ||
            std::count(layer[r].streaming.begin(), layer[r].streaming.end(), head)) {
          return true;
        }
      }
      return false;
    };
    std::vector<LocalHead>& heads = shard.layers.emplace_back();
    for (const SplitPiece& piece : layer[rank].split) {
      heads.push_back({piece.head, HeadKind::kSplit, piece.first, piece.last, piece.of, true});
    }
    for (const int head : layer[rank].whole) heads.push_back({head, HeadKind::kWhole, 0, 1, 1, !is_copy(head)});
    for (const int head : layer[rank].streaming) heads.push_back({head, HeadKind::kStreaming, 0, 1, 1, !is_copy(head)});
  }
  shard.ffn = ProportionalRange(shape.intermediate, partition.shares, rank, ffn_granularity);
  shard.vocab = ProportionalRange(shape.vocab, partition.shares, rank, vocab_granularity);
  shard.whole_experts = partition.whole_experts;
  shard.experts = {0, shape.experts};
  shard.expert = {0, shape.expert_intermediate};
  if (partition.whole_experts) {
    shard.experts = ProportionalRange(shape.experts, partition.shares, rank, 1);
  } else {
    shard.expert = ProportionalRange(shape.expert_intermediate, partition.shares, rank, experts.expert);
  }
  shard.shared_expert = ProportionalRange(shape.shared_intermediate, partition.shares, rank, experts.shared);
  return shard;
}

}  // namespace duo
