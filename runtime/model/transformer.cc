#include "runtime/model/transformer.h"

#include <algorithm>

#include "kernels/base/math.h"
#include "kernels/experts.h"
#include "kernels/ops.h"
#include "kernels/rotate_store.h"

namespace duo {
namespace {

View LastRows(const View& v, int64_t rows) { return v.Rows(v.rows - rows, rows); }

// What a linear layer of which this rank has no columns gives to the sum: its bias, where it is the rank that adds it.
void FillBias(Device& device, const View& out, const Weight& weight) {
  if (weight.bias != nullptr) return FillRows(device, out, weight.bias);
  device.Fill(out.data, 0, Bytes(out.dtype, out.rows * out.cols));
}

}  // namespace

ChunkQueries DenseQueries(const Activations& a, const HeadShape& shape) {
  const auto dense = [&](const View& q) { return View(q.data, q.dtype, q.rows, shape.q_cols()); };
  return {dense(a.chunk_queries.previous), dense(a.chunk_queries.earlier)};
}

int64_t MlpColumns(const ModelConfig& config, const RankShard& shard) {
  int64_t columns = config.experts.count > 0 ? shard.shared_expert.size() : 0;
  for (int layer = 0; layer < config.layers; ++layer) {
    if (!config.experts.in(layer)) columns = std::max(columns, shard.ffn.size());
  }
  return columns;
}

View Transformer::Run(const Activations& a, const int32_t* tokens,
                      absl::FunctionRef<View(int layer, View add)> attend) {
  Embed(device_, a.residual, tokens, weights_.outer[WeightRole::kEmbedding], weights_.first_id);
  if (comm_.size() > 1) comm_.AllReduceSum(a.residual, device_);
  View add;  // what the previous block gives to the residual stream
  for (int layer = 0; layer < config_.layers; ++layer) {
    const View attended = attend(layer, add);
    add = Output(layer, a, attended);
    add = Mlp(layer, a, add);
  }
  return add;
}

View Transformer::Qkv(int layer, const Activations& a, const HeadShape& shape, View add, View before,
                      const float* key_shift, const StoredPages* store) {
  QkvInput(layer, a, add);
  // This layer's heads, dense, in the space of the layer with the most.
  const View qkv(a.qkv.data, a.qkv.dtype, a.residual.rows, shape.qkv_cols());
  Project(layer, a, qkv);
  Rotate(layer, a, shape, qkv, before, key_shift, store);
  return qkv;
}

void Transformer::QkvInput(int layer, const Activations& a, View add) {
  SumAddNorm(a.normed, a.residual, add, weights_.layers[layer].vector(WeightRole::kInputNorm));
}

void Transformer::Project(int layer, const Activations& a, View qkv) {
  if (qkv.cols > 0) Linear(device_, qkv, a.normed, weights_.layers[layer][WeightRole::kQkv], scratch_);
}

void Transformer::Rotate(int layer, const Activations& a, const HeadShape& shape, View qkv, View before,
                         const float* key_shift, const StoredPages* store) {
  if (shape.kv_heads == 0) return;
  const WeightSet& w = weights_.layers[layer];
  if (!before.empty()) device_.Copy(before.data, qkv.data, Bytes(qkv.dtype, qkv.rows * qkv.cols));
  const QkNorms norms = {w.vector(WeightRole::kQNorm), w.vector(WeightRole::kKNorm), eps()};
  if (a.chunk_queries.earlier.data != nullptr) {
    DUO_CHECK(key_shift == nullptr && store == nullptr);
    RotateQkByChunks(device_, qkv, DenseQueries(a, shape), shape, a.cos_sin, norms);
  } else if (store != nullptr) {
    RotateAndStore(device_, {qkv, shape, store->batch}, a.cos_sin, norms, key_shift, store->paged);
  } else {
    RotateQk(device_, qkv, shape, a.cos_sin, norms, key_shift);
  }
}

View Transformer::Output(int layer, const Activations& a, View attended) {
  const View out = a.projected.Rows(0, attended.rows);
  const Weight& weight = weights_.layers[layer][WeightRole::kO];
  if (attended.cols > 0) {
    Linear(device_, out, attended, weight, scratch_);
  } else {  // no head of this layer
    FillBias(device_, out, weight);
  }
  return out;
}

View Transformer::MlpInput(int layer, const Activations& a, View add) {
  const View normed = LastRows(a.normed, add.rows);
  // The sum also finishes the merge of split heads.
  SumAddNorm(normed, LastRows(a.residual, add.rows), add, weights_.layers[layer].vector(WeightRole::kPostNorm));
  return normed;
}

void Transformer::GatedMlp(const Activations& a, View out, View x, const Weight& gate_up, const Weight& down) {
  if (down.cols == 0) return FillBias(device_, out, down);
  // Dense, in the space of the layer with the most columns.
  const View both(a.gate_up.data, a.gate_up.dtype, x.rows, gate_up.rows);
  const View product(a.product.data, a.product.dtype, x.rows, down.cols);
  LinearSwiGlu(device_, product, both, x, gate_up, scratch_);
  Linear(device_, out, product, down, scratch_);
}

int64_t Transformer::ExpertBlockRows(const ExpertsConfig& experts) {
  constexpr int64_t kOfExpert = 1024, kMost = 16384;
  const int64_t rows = RoundUp(CeilDiv(kOfExpert * experts.count, int64_t{experts.chosen}), kMlpRows);
  return std::clamp(rows, kMlpRows, kMost);
}

void Transformer::Experts(int layer, const Activations& a, View out, View x, const NormedRows* norm) {
  const WeightSet& w = weights_.layers[layer];
  const ExpertsConfig& experts = config_.experts;
  const Weight& router = w[WeightRole::kRouter];
  const size_t mark = scratch_.used();
  // Every rank routes for itself, whichever experts it holds: inputs and router are the same on all.
  const View padded = scratch_.Matrix(DType::kF32, x.rows, RoundUp(router.rows, 8));
  const View logits = padded.Cols(0, router.rows);
  const int64_t slots = x.rows * experts.chosen;
  const Routing routing = {static_cast<int32_t*>(scratch_.Take(sizeof(int32_t) * slots)),
                           static_cast<float*>(scratch_.Take(sizeof(float) * slots)), experts.chosen};
  if (norm != nullptr) {
    NormAndRoute(device_, routing, logits, *norm, router, experts.count, experts.normalised);
  } else {
    Linear(device_, logits, x, router, scratch_);
    RouteRows(device_, routing, logits, experts.count, experts.normalised);
  }
  if (routes_ != nullptr) routes_->Seen(device_, layer, logits, routing, experts);
  const ExpertBank bank = {static_cast<int>(weights_.experts.size()),
                           w[WeightRole::kExpertGateUp],
                           w[WeightRole::kExpertDown],
                           static_cast<float>(experts.gate_limit),
                           static_cast<float>(experts.gate_alpha),
                           static_cast<int>(weights_.experts.begin),
                           experts.count};
  ExpertMlp(device_, out, x, bank, routing, scratch_);
  if (experts.shared_intermediate > 0) {
    const View gates = logits.Cols(experts.count, 1);
    const View shared = scratch_.Matrix(out.dtype, std::min(kMlpRows, out.rows), out.cols);
    for (int64_t first = 0; first < out.rows; first += kMlpRows) {
      const int64_t rows = std::min(kMlpRows, out.rows - first);
      const View part = shared.Rows(0, rows);
      GatedMlp(a, part, x.Rows(first, rows), w[WeightRole::kSharedGateUp], w[WeightRole::kSharedDown]);
      AddGated(device_, out.Rows(first, rows), part, gates.Rows(first, rows));
    }
  }
  scratch_.Rewind(mark);
}

bool Transformer::NormedExperts(int layer, const Activations& a, View out, View add) {
  const WeightSet& w = weights_.layers[layer];
  if (!config_.experts.in(layer) || comm_.size() > 1) return false;
  const NormedRows rows = {LastRows(a.normed, add.rows), LastRows(a.residual, add.rows), add,
                           w.vector(WeightRole::kPostNorm), eps()};
  if (!CanNormAndRoute(device_, rows, w[WeightRole::kRouter])) return false;
  Experts(layer, a, out, rows.out, &rows);
  return true;
}

View Transformer::Mlp(int layer, const Activations& a, View add) {
  const View out = a.mlp.Rows(0, add.rows);
  if (NormedExperts(layer, a, out, add)) return out;
  return MlpOf(layer, a, MlpInput(layer, a, add));
}

View Transformer::MlpOf(int layer, const Activations& a, View normed) {
  const WeightSet& w = weights_.layers[layer];
  const View out = a.mlp.Rows(0, normed.rows);
  const bool mixed = config_.experts.in(layer);
  const int64_t most = mixed ? ExpertBlockRows(config_.experts) : kMlpRows;
  for (int64_t first = 0; first < out.rows; first += most) {
    const int64_t rows = std::min(most, out.rows - first);
    const View block = out.Rows(first, rows), x = normed.Rows(first, rows);
    if (mixed) {
      Experts(layer, a, block, x);
    } else {
      GatedMlp(a, block, x, w[WeightRole::kGateUp], w[WeightRole::kDown]);
    }
  }
  return out;
}

void Transformer::SumAddNorm(View out, View residual, View add, const float* weight) {
  if (comm_.size() > 1 && !add.empty()) {
    if (comm_.AllReduceAddNorm(add, {out, residual, weight, eps()}, device_)) return;
    comm_.AllReduceSum(add, device_);
  }
  AddRmsNorm(device_, out, residual, add, weight, eps());
}

void Transformer::Finish(const Activations& a, View add, View out) {
  SumAddNorm(out, LastRows(a.residual, add.rows), add,
             out.empty() ? nullptr : weights_.outer.vector(WeightRole::kFinalNorm));
}

}  // namespace duo
