#include "runtime/model/rows_prefill.h"

#include <algorithm>
#include <utility>

#include "kernels/ops.h"
#include "parallel/prefill_split.h"

namespace duo {
namespace {

// Blocks of so many columns a peer, in the groups' order, dense one after the other.
class Blocks {
 public:
  Blocks(void* data, DType type) : place_(static_cast<uint8_t*>(data)), type_(type) {}
  View Next(int64_t rows, int64_t cols) {
    const View block(place_, type_, rows, cols);
    bytes_.push_back(static_cast<int64_t>(Bytes(type_, rows * cols)));
    place_ += bytes_.back();
    return block;
  }
  const std::vector<int64_t>& bytes() const { return bytes_; }

 private:
  uint8_t* place_;
  DType type_;
  std::vector<int64_t> bytes_;
};

}  // namespace

RowsPrefill::RowsPrefill(std::vector<RankShard> shards, const RowGroups& groups, PeerShards peers,
                         std::unique_ptr<Communicator> among_peers, std::unique_ptr<Communicator> in_group)
    : shards_(std::move(shards)),
      groups_(groups),
      peers_(std::move(peers)),
      among_peers_(std::move(among_peers)),
      in_group_(std::move(in_group)) {}

bool RowsPrefill::Takes(int64_t rows) const { return LongEnoughForRows(rows, groups_.shares); }

std::vector<Range> RowsPrefill::RowsOf(int64_t rows) const { return RowsOfGroups(rows, groups_.shares); }

int64_t RowsPrefill::MlpColumnsOf(const ModelConfig& config) const {
  int64_t most = 0;
  for (const RankShard& shard : shards_) most = std::max(most, MlpColumns(config, shard));
  return most;
}

int64_t RowsPrefill::QColumns(const ModelConfig& config, int peer, int layer) const {
  const auto kv_heads = static_cast<int64_t>(shards_[peer].layers[layer].size());
  return kv_heads * (config.heads / config.kv_heads) * config.head_dim;
}

int64_t RowsPrefill::QkvColumns(const ModelConfig& config, int peer, int layer) const {
  const auto kv_heads = static_cast<int64_t>(shards_[peer].layers[layer].size());
  return QColumns(config, peer, layer) + 2 * kv_heads * config.head_dim;
}

int64_t RowsPrefill::MostColumns(const ModelConfig& config, bool q_alone) const {
  int64_t most = 0;
  for (int layer = 0; layer < config.layers; ++layer) {
    int64_t columns = 0;
    for (size_t r = 0; r < shards_.size(); ++r) {
      const int peer = static_cast<int>(r);
      columns += q_alone ? QColumns(config, peer, layer) : QkvColumns(config, peer, layer);
    }
    most = std::max(most, columns);
  }
  return most;
}

int64_t RowsPrefill::SentBytes(const ModelConfig& config, DType type, int64_t rows) const {
  return static_cast<int64_t>(Bytes(type, rows * MostColumns(config, false)));
}

int64_t RowsPrefill::ReturnedBytes(const ModelConfig& config, DType type, int64_t rows) const {
  return static_cast<int64_t>(Bytes(type, rows * MostColumns(config, true)));
}

std::vector<Transformer> RowsPrefill::Shards(const RowsStep& step) const {
  std::vector<Transformer> shards;
  for (size_t r = 0; r < shards_.size(); ++r) {
    const ModelWeights& weights = static_cast<int>(r) == own() ? step.weights : peers_.layers[r];
    shards.emplace_back(step.config, weights, step.device, *in_group_, step.scratch);
  }
  return shards;
}

View RowsPrefill::Run(const RowsStep& step, const int32_t* tokens,
                      absl::FunctionRef<View(int layer, View qkv)> attend) {
  const Activations& a = step.a;
  const ModelConfig& config = step.config;
  const DType type = a.normed.dtype;
  const Range mine = step.rows[own()];
  const int64_t all = step.rows.back().end;
  const int groups = static_cast<int>(shards_.size());
  std::vector<Transformer> shards = Shards(step);
  Transformer& any = shards[own()];
  Embed(step.device, a.residual, tokens + mine.begin, peers_.embedding.outer[WeightRole::kEmbedding], 0);
  View add;
  for (int layer = 0; layer < config.layers; ++layer) {
    any.QkvInput(layer, a, add);
    Blocks sent(step.sent, type), arriving(a.qkv.data, type);
    const int64_t qkv_cols = QkvColumns(config, own(), layer), q_cols = QColumns(config, own(), layer);
    for (int r = 0; r < groups; ++r) {
      shards[r].Project(layer, a, sent.Next(mine.size(), QkvColumns(config, r, layer)));
      arriving.Next(step.rows[r].size(), qkv_cols);
    }
    among_peers_->AllToAll(a.qkv.data, arriving.bytes(), step.sent, sent.bytes(), step.device);
    // Rows came in the groups' order, so they are in theirs.
    const View attended = attend(layer, View(a.qkv.data, type, all, qkv_cols));
    Blocks leaving(attended.data, type), returned(step.returned, type);
    std::vector<View> parts;
    for (int r = 0; r < groups; ++r) {
      leaving.Next(step.rows[r].size(), q_cols);
      parts.push_back(returned.Next(mine.size(), QColumns(config, r, layer)));
    }
    among_peers_->AllToAll(step.returned, returned.bytes(), attended.data, leaving.bytes(), step.device);
    add = View();
    for (int r = 0; r < groups; ++r) {
      if (!add.empty()) any.Finish(a, add, View());
      add = shards[r].Output(layer, a, parts[r]);
    }
    const View normed = any.MlpInput(layer, a, add);
    add = View();
    for (int r = 0; r < groups; ++r) {
      if (!add.empty()) any.Finish(a, add, View());
      add = shards[r].MlpOf(layer, a, normed);
    }
  }
  return add;
}

void RowsPrefill::Finish(const RowsStep& step, View add, View all_normed, View out, const int32_t* rows, int count) {
  const Range mine = step.rows[own()];
  step.device.Fill(all_normed.data, 0, Bytes(all_normed.dtype, all_normed.rows * all_normed.cols));
  Transformer(step.config, step.weights, step.device, *in_group_, step.scratch)
      .Finish(step.a, add, all_normed.Rows(mine.begin, mine.size()));
  GatherRows(step.device, out, all_normed, rows, count);
  among_peers_->AllReduceSum(out, step.device);  // one of them has each row, the others zeros
}

}  // namespace duo
