// Model: the transformer, written once for every family, backend, head class and rank count. One call runs one step on
// this rank: rows of tokens in, logits of the sampled rows out, K and V into the cache on the way.
//
// Owns the weights and the step's device constants; borrows the device, the communicator and the cache. Allocates
// nothing in Forward; all collectives of a step happen in it, in the same order on every rank. Not thread-safe.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "parallel/partition.h"
#include "parallel/shard.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/model/rope.h"
#include "runtime/weights/config.h"
#include "runtime/weights/weights.h"

namespace duo {

// A step's input in device memory.
struct StepInput {
  const int32_t* tokens = nullptr;       // [batch.num_rows]
  const int32_t* sample_rows = nullptr;  // [num_samples]: rows whose logits are wanted
  int num_samples = 0;
  bool prefill = false;  // one long sequence: AttendPrefill; else AttendPages
  SeqBatch batch;
};

// The largest step that a workspace must hold.
struct StepLimits {
  int prefill_rows = 0;  // of one sequence
  int rows = 0;          // of a rows step, all sequences together
  int samples = 0;
  int64_t max_tokens = 0;  // of one sequence
};

class Model {
 public:
  // A row block of the MLP, so that its activations stay small in long prefill chunks.
  static constexpr int kMlpRows = 2048;

  static absl::StatusOr<Model> Create(const ModelConfig& config, const Partition& partition, const RankShard& shard,
                                      ModelWeights weights, const RopeFrequencies& rope, Device& device,
                                      Communicator& comm);

  // logits [num_samples, this rank's vocabulary] f32, in `arena`, valid until its next step.
  View Forward(const StepInput& input, const KvCache& cache, Arena& arena);

  // Arena bytes that the limits need.
  static size_t WorkspaceBytes(const ModelConfig& config, const Partition& partition, const RankShard& shard,
                               const WeightFormats& formats, const KvFormat format, const HeadPlan& heads,
                               const StepLimits& limits, const Device& device);

  const ModelWeights& weights() const { return weights_; }
  const ModelConfig& config() const { return config_; }

 private:
  // The split heads of a layer as the lse exchange needs them; entries = 0 where no head is split.
  struct Exchange {
    int entries = 0;               // query heads of pieces, per rank, padded to the largest
    int heads = 0;                 // this rank's
    const int32_t* ids = nullptr;  // device [ranks][entries]
    std::vector<bool> own_square;  // [piece of this rank]: attends within the chunk
  };
  struct Activations {
    View residual, normed, qkv, attention, projected, mlp, gate_up, cos_sin;
    float* lse = nullptr;  // [ranks][entries][rows]
  };

  Model() = default;
  static Activations Allocate(Arena& arena, const ModelConfig& config, const RankShard& shard, const Device& device,
                              int rows, int world, int entries);
  // residual += add, then attention: returns what the MLP must add.
  View Attention(int l, const StepInput& input, const KvCache& cache, const Activations& a, View add, Arena& arena);
  View Mlp(int l, const Activations& a, View add, Arena& arena);

  ModelConfig config_;
  RankShard shard_;
  ModelWeights weights_;
  std::vector<Exchange> exchanges_;  // [layer]
  int max_entries_ = 0;
  Buffer constants_;                     // frequencies, exchange ids
  const double* frequencies_ = nullptr;  // device [head_dim / 2]
  double rope_factor_ = 1;
  Device* device_ = nullptr;
  Communicator* comm_ = nullptr;
};

}  // namespace duo
