// RowsPrefill: the layers of a chunk whose rows are shared out over groups of ranks (parallel/prefill_split.h has what
// that is and costs). A rank runs the shards of all its peers over its group's rows, in the groups' order, and adds
// what each gives to the residual stream, in f32: the parts are those that ranks with heads of their own would have
// sent into a sum, so split heads, copies of heads, biases and experts need nothing of their own here. Where a group
// has several ranks, a part is added up over them first.
//
// Owns the peers' weights and the communicators of groups, borrows everything else for one step. Every exchange is a
// collective, two in a layer among peers. Not thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "parallel/communicator.h"
#include "parallel/prefill_split.h"
#include "parallel/shard.h"
#include "runtime/model/peer_shards.h"
#include "runtime/model/transformer.h"

namespace duo {

// A step's memory and what it runs on.
struct RowsStep {
  const ModelConfig& config;
  const ModelWeights& weights;  // this rank's own
  Device& device;
  Arena& scratch;
  // residual, normed, projected, mlp, gate_up and product: of this group's rows. qkv: of all rows, this rank's heads.
  const Activations& a;
  std::vector<Range> rows;   // of each group
  void* sent = nullptr;      // SentBytes: q, k and v of this group's rows, group by group
  void* returned = nullptr;  // ReturnedBytes: what the peers' heads attended to, of this group's rows
};

class RowsPrefill {
 public:
  // shards: of the peers, this rank's own among them. among_peers and in_group: communicators of these ranks.
  RowsPrefill(std::vector<RankShard> shards, const RowGroups& groups, PeerShards peers,
              std::unique_ptr<Communicator> among_peers, std::unique_ptr<Communicator> in_group);

  // Whether a step of so many rows is taken; else it goes by heads.
  bool Takes(int64_t rows) const;
  // [group]; rows of a step that is taken.
  std::vector<Range> RowsOf(int64_t rows) const;
  int own() const { return groups_.group; }

  // Columns of a row in MLPs, and bytes of the two exchanges for `rows` of this group.
  int64_t MlpColumnsOf(const ModelConfig& config) const;
  int64_t SentBytes(const ModelConfig& config, DType type, int64_t rows) const;
  int64_t ReturnedBytes(const ModelConfig& config, DType type, int64_t rows) const;

  // Embeds this group's rows of tokens [all rows] and runs all layers on them. attend(layer, qkv): gets the layer's
  // queries, keys and values of all rows for this rank's heads, before norms and rotation, dense in step.a.qkv; returns
  // what they attended to, dense [all rows, q columns]. The result is what the residual stream still lacks.
  View Run(const RowsStep& step, const int32_t* tokens, absl::FunctionRef<View(int layer, View qkv)> attend);
  // residual += add; out [count, hidden] = the final norm of these of all rows, on every rank. all_normed: scratch [all
  // rows, hidden].
  void Finish(const RowsStep& step, View add, View all_normed, View out, const int32_t* rows, int count);

 private:
  // Columns of a peer's q, k and v in a layer, or of its q alone.
  int64_t QkvColumns(const ModelConfig& config, int peer, int layer) const;
  int64_t QColumns(const ModelConfig& config, int peer, int layer) const;
  int64_t MostColumns(const ModelConfig& config, bool q_alone) const;  // of all peers together, in any layer
  std::vector<Transformer> Shards(const RowsStep& step) const;

  std::vector<RankShard> shards_;
  RowGroups groups_;
  PeerShards peers_;
  std::unique_ptr<Communicator> among_peers_, in_group_;
};

}  // namespace duo
