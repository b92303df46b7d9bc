// Transformer: the layers of a decoder, written once for every family, backend and rank count, and for all who run
// them: Model, whose rows attend to the KV cache, and IdentifyModel, whose teacher and student attend within one
// sequence. Whoever runs it says how a layer attends; everything else is here. A family's further weight is used here,
// too.
//
// Borrows all it is made of, and holds no state of its own: made for one pass. Activations are device memory; scratch
// of an op is given back as soon as the op is launched. All collectives of the layers happen here, in the same order on
// every rank. Not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "kernels/attention.h"
#include "kernels/base/buffer.h"
#include "kernels/norm_route.h"
#include "parallel/communicator.h"
#include "runtime/model/route_tape.h"
#include "runtime/weights/config.h"
#include "runtime/weights/weights.h"

namespace duo {

// Of the rows of one pass; T is the device's activation type. `projected` and `mlp` may be the same memory.
struct Activations {
  View residual;   // f32 [rows, hidden]
  View normed;     // T [rows, hidden]
  View projected;  // T [rows, hidden]: what attention adds to the residual stream
  View mlp;        // T [rows, hidden]: what the MLP adds
  View qkv;        // T [rows, most qkv columns of a layer]
  View gate_up;    // T [block of rows, 2 * MlpColumns]
  View product;    // T [block of rows, MlpColumns]
  View cos_sin;    // f32 [rows, head_dim], or as ChunkAngles leaves them
  // With dual chunk attention, T [rows, most q columns of a layer]: queries for keys of other chunks.
  ChunkQueries chunk_queries = {};
};

// A layer's heads whose keys and values are stored as soon as they are there, and the rows that they are of.
struct StoredPages {
  const SeqBatch& batch;
  const std::vector<PagedKv>& paged;
};

// Of a layer of this shape: dense, in their space.
ChunkQueries DenseQueries(const Activations& a, const HeadShape& shape);

// The most columns of this rank in any layer's gated MLP that works on all tokens.
int64_t MlpColumns(const ModelConfig& config, const RankShard& shard);

class Transformer {
 public:
  // A row block of the MLP, so that its activations stay small in long prefill chunks.
  static constexpr int64_t kMlpRows = 2048;
  // The same of a mixture: enough for a thousand rows of each expert. Of 128 experts, 8 a row, 2,048 rows give 128,
  // and most of a step's time went to beginning products.
  static int64_t ExpertBlockRows(const ExpertsConfig& experts);

  // scratch: of the ops, which give back what they take of it. routes: looks at, or gives, the rows' experts; null for
  // most.
  Transformer(const ModelConfig& config, const ModelWeights& weights, Device& device, Communicator& comm,
              Arena& scratch, RouteTape* routes = nullptr)
      : config_(config), weights_(weights), device_(device), comm_(comm), scratch_(scratch), routes_(routes) {}

  // Embeds the tokens [rows] and runs all layers. attend(layer, add): calls Qkv with `add` and returns what the layer's
  // heads attended to, [last rows, q columns]: rows before the last ones end there, but for what they have given to
  // others as keys and values. The result is this rank's part of what the residual stream of the last rows still lacks.
  View Run(const Activations& a, const int32_t* tokens, absl::FunctionRef<View(int layer, View add)> attend);

  // In what follows `add` is this rank's part of what a block gives to the residual stream: it is added up over the
  // ranks where it joins the stream, because there one kernel can do both. It is not defined afterwards.

  // residual += add; the layer's queries, keys and values of all rows, normed and rotated, dense. before: where they
  // are copied as they were before norms and rotation; empty: nowhere. key_shift: as RotateQk takes it. store: what is
  // stored (StoreKv) besides; null: nothing. Where `a` has chunk_queries, they are made, too, and key_shift and store
  // must be null.
  View Qkv(int layer, const Activations& a, const HeadShape& shape, View add, View before = View(),
           const float* key_shift = nullptr, const StoredPages* store = nullptr);
  // Its parts, for whoever has something in between. residual += add; a.normed = the norm of that.
  void QkvInput(int layer, const Activations& a, View add);
  // qkv = a.normed times the layer's matrix, unless it has no columns.
  void Project(int layer, const Activations& a, View qkv);
  // Norms and rotates, as Qkv has it.
  void Rotate(int layer, const Activations& a, const HeadShape& shape, View qkv, View before, const float* key_shift,
              const StoredPages* store);
  // attended times o_proj: this rank's part of what attention adds to the residual stream's last rows.
  View Output(int layer, const Activations& a, View attended);
  // residual += add, for the last add.rows rows; returns their MLP's input.
  View MlpInput(int layer, const Activations& a, View add);
  // A layer's MLP, or its mixture of experts: this rank's part of it.
  View Mlp(int layer, const Activations& a, View add);
  // The same of what MlpInput gave.
  View MlpOf(int layer, const Activations& a, View normed);
  // residual += add, for the last add.rows rows, and the final norm of them where `out` is not empty.
  void Finish(const Activations& a, View add, View out);

 private:
  // out = the gated MLP of these two matrices on x, at most kMlpRows rows; zero where this rank has no part of it.
  void GatedMlp(const Activations& a, View out, View x, const Weight& gate_up, const Weight& down);
  // out = the layer's mixture of experts on x, at most ExpertBlockRows rows. norm: what makes x, where that is still to
  // be done.
  void Experts(int layer, const Activations& a, View out, View x, const NormedRows* norm = nullptr);
  // The same on the last rows, with `add` still to be added: where sum, norm and choice can be one launch.
  bool NormedExperts(int layer, const Activations& a, View out, View add);
  // Adds up `add` over the ranks, if it is not empty; residual += the sum; out = the norm of that, where it is not
  // empty.
  void SumAddNorm(View out, View residual, View add, const float* weight);
  float eps() const { return static_cast<float>(config_.rms_norm_eps); }

  const ModelConfig& config_;
  const ModelWeights& weights_;
  Device& device_;
  Communicator& comm_;
  Arena& scratch_;
  RouteTape* routes_;
};

}  // namespace duo
