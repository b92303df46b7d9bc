// Model: the transformer over the KV cache. One call runs one step on this rank: rows of tokens in, logits of the
// sampled rows out, K and V into the cache on the way. The layers are transformer.h's; here is how their heads attend,
// of every class and on any number of ranks.
//
// Owns the weights and the step's device constants; borrows the device, the communicator and the cache. Allocates
// nothing in Forward; all collectives of a step happen in it, in the same order on every rank. Not thread-safe.
#pragma once

#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "parallel/partition.h"
#include "parallel/shard.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/model/mass_reader.h"
#include "runtime/model/rope.h"
#include "runtime/model/rows_prefill.h"
#include "runtime/model/sparse_prefill.h"
#include "runtime/model/transformer.h"
#include "runtime/weights/config.h"
#include "runtime/weights/weights.h"

namespace duo {

// A step's input in device memory.
struct StepInput {
  const int32_t* tokens = nullptr;       // [rows()]
  const int32_t* sample_rows = nullptr;  // [num_samples]: rows whose logits are wanted
  int num_samples = 0;
  const int32_t* mass_rows = nullptr;  // [num_mass_rows]: rows whose queries are kept
  int num_mass_rows = 0;
  bool prefill = false;  // one long sequence: AttendPrefill; else AttendPages
  SeqBatch batch;
  // Of a prefill: rows of other sequences that ride in the step, behind the batch's. They share the reading of the
  // weights and all that is done row by row, and attend by AttendPages. Their spans count rows from their own first.
  SeqBatch riders;
  SparseStep* sparse = nullptr;  // of a prefill: how retrieval heads read it; null: densely
  int list_target = 0;           // of sequences that make page lists, in thousandths
  bool draft_weights = false;    // by the copy of the weights that guesses
  bool sees_ends = false;        // rows may visit the list of the ends, in layers without lists, too
  int rows() const { return batch.num_rows + riders.num_rows; }
};

// The largest step that a workspace must hold.
struct StepLimits {
  int prefill_rows = 0;  // of one sequence; `rows` may ride with them
  int batch = 0;         // sequences of a rows step
  int rows = 0;          // of a rows step, all sequences together
  int samples = 0;
  int64_t max_tokens = 0;  // of one sequence
  bool sparse = false;     // chunks may be read by page lists
  bool lists = false;      // answers may be written by page lists
};

// What a model is made from besides its weights.
struct ModelParts {
  const ModelConfig& config;
  const Partition& partition;
  const RankShard& shard;
  const RopeFrequencies& rope;
  const std::vector<ProvenanceHead>& provenance;  // whose mass rows may ask for; empty: no row asks
  const std::vector<float>& key_shift;            // of all heads (key_shift.h); empty: keys stay as they are
  DualChunk chunks = {};                          // length 0: attention is not by chunks
  // Where long chunks are shared out by rows, over whom, and the peers' shards; null: they are not.
  const SharedRows* shared_rows = nullptr;
};

class Model {
 public:
  static absl::StatusOr<Model> Create(const ModelParts& parts, ModelWeights weights, Device& device,
                                      Communicator& comm);

  // A copy of the weights that only guesses, for steps that ask for it; its embedding becomes the model's own.
  void AddDraftWeights(ModelWeights weights);
  // From now on long chunks are shared out by rows.
  void AddRowsPrefill(std::unique_ptr<RowsPrefill> rows) { rows_prefill_ = std::move(rows); }
  bool has_draft_weights() const { return !draft_weights_.layers.empty(); }

  // logits [num_samples, this rank's vocabulary] f32, in `arena`, valid until its next step.
  View Forward(const StepInput& input, const KvCache& cache, Arena& arena);

  const MassReader& mass_reader() const { return mass_reader_; }
  // Of all that runs from now on, by benchmarks; null: nobody looks.
  std::unique_ptr<RouteTape>& routes() { return routes_; }
  const std::unique_ptr<RouteTape>& routes() const { return routes_; }
  // Of the last Forward: [num_mass_rows, mass_reader().columns()], behind the logits and before all scratch.
  View mass_queries() const { return mass_queries_; }
  // And what it left of its one row, behind these; whoever reads both takes scratch behind mass_end().
  const KeptMass& kept_mass() const { return kept_mass_; }
  size_t mass_end() const { return mass_end_; }
  const ModelWeights& weights() const { return weights_; }
  const ModelConfig& config() const { return config_; }
  const RankShard& shard() const { return shard_; }

 private:
  // The split heads of a layer as the lse exchange needs them; entries = 0 where no head is split.
  struct Exchange {
    int entries = 0;               // query heads of pieces, per rank, padded to the largest
    int heads = 0;                 // this rank's
    const int32_t* ids = nullptr;  // device [ranks][entries]
    std::vector<bool> own_square;  // [piece of this rank]: attends within the chunk
  };
  // One step's memory.
  struct Workspace {
    View logits;
    View queries;  // T [mass rows, columns]: those that are kept
    KeptMass kept;
    size_t kept_end = 0;  // of the arena, behind these
    Activations a;
    View attended;         // T [rows, q columns of the layer with the most heads]
    float* lse = nullptr;  // [ranks][entries][rows]
    // With learned sinks: of this rank's heads that are no pieces [query heads of the layer with the most][rows].
    float* own_lse = nullptr;
    // With dual chunk attention: what the heads attend to in another kind of chunk, as `attended`, and the lse of that
    // and of their own chunk [query heads of the layer with the most][rows].
    View part;
    float* part_lse = nullptr;
    float* chunk_lse = nullptr;
    // By rows: those of each rank, what is sent and what comes back, and the last norm of all rows.
    std::vector<Range> rows;
    void* sent = nullptr;
    void* returned = nullptr;
    View all_normed;
  };

  Model() = default;
  // Whose rows, not whose heads, the ranks share; not where somebody looks at every row's experts.
  bool ByRows(const StepInput& input) const {
    return rows_prefill_ != nullptr && input.prefill && routes_ == nullptr && rows_prefill_->Takes(input.rows());
  }
  Workspace Allocate(Arena& arena, const StepInput& input, const KvCache& cache) const;
  KeptMass TakeKeptMass(Arena& arena, const StepInput& input, const KvCache& cache) const;
  void PlanStep(SeqBatch& batch, const KvCache& cache, Arena& arena);
  // Rows of a step that attend alike: of one long sequence, or few of each of several.
  struct Part {
    StepRows rows;
    View out;        // what they attended to
    float* lse;      // [ranks][entries][rows]
    float* own_lse;  // [query heads][rows], or null
    bool prefill;    // the former
    SparseStep* sparse = nullptr;
    int list_target = 0;
    KeptMass kept = {};  // where its one row leaves where it looks
    bool sees_ends = false;
    bool stored = false;  // StoresAtOnce
    ChunkQueries queries = {};
    Partial other = {};  // Workspace::part and part_lse
    float* chunk_lse = nullptr;
  };
  // Are retrieval heads' keys and values stored as they are rotated? Not where rows of two batches are.
  bool StoresAtOnce(const StepInput& input) const { return !input.prefill && chunks_.length == 0; }
  // How the heads of a layer attend: stores the rows' keys and values, and returns what they attended to.
  View Attend(int layer, const StepInput& input, const LayerKv& kv, const Workspace& w, View qkv, Arena& arena);
  void AttendPart(int layer, const LayerKv& kv, const Part& part, Arena& arena);
  float* OwnLse(int layer, const Part& part, int first_head) const;
  bool StreamsInPages(const LayerKv& kv, const Part& part) const;
  void AttendPaged(int layer, const LayerKv& kv, const Part& part, Arena& arena);
  // Calls attend(where to, rows) once, or once for each kind of chunk that rows may see, and merges what they give to
  // `to`, which is of these KV heads.
  void AttendByChunks(const Part& part, const StepRows& rows, Partial to, int first_head, int heads,
                      absl::FunctionRef<void(const Partial&, const StepRows&)> attend);
  void AttendSparse(int layer, const PagedKv& heads, const Part& part, Arena& arena);

  ModelConfig config_;
  RankShard shard_;
  ModelWeights weights_;
  ModelWeights draft_weights_;       // no layers: there is no such copy
  std::vector<Exchange> exchanges_;  // [layer]
  int max_entries_ = 0;
  Buffer constants_;                     // frequencies, exchange ids, key shifts
  const double* frequencies_ = nullptr;  // device [head_dim / 2]
  const int32_t* own_ids_ = nullptr;     // device: 0, 1, .. for each query head of this rank, to stand for itself
  std::vector<const float*> key_shift_;  // device [layer][this rank's KV heads][head_dim], in their order; or empty
  double rope_factor_ = 1;
  DualChunk chunks_;
  MassReader mass_reader_;
  View mass_queries_;
  KeptMass kept_mass_;
  size_t mass_end_ = 0;
  std::unique_ptr<RouteTape> routes_;          // null but in benchmarks
  std::unique_ptr<RowsPrefill> rows_prefill_;  // null: every step goes by heads
  Device* device_ = nullptr;
  Communicator* comm_ = nullptr;
};

}  // namespace duo
