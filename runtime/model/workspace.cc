#include "runtime/model/workspace.h"

#include <algorithm>
#include <memory>

#include "kernels/base/math.h"
#include "kernels/row_cuts.h"
#include "runtime/weights/weights_layout.h"

namespace duo {
namespace {

// As many rows, of as few sequences, as a batch of few rows each may have.
SeqBatch LargestBatch(const StepLimits& limits, const SeqSpan* host_spans) {
  SeqBatch batch;
  batch.num_rows = limits.rows;
  batch.max_rows = std::min(batch.num_rows, kMaxDecodeRows);
  batch.num_seqs = CeilDiv(batch.num_rows, batch.max_rows);
  batch.host_spans = host_spans;
  batch.max_tokens = limits.max_tokens;
  return batch;
}

// The largest step of a kind; what its device pointers point to is never looked at.
StepInput LargestStep(const StepLimits& limits, bool prefill, bool asks_for_mass, const SeqSpan* host_spans) {
  StepInput input;
  input.num_samples = limits.samples;
  if (asks_for_mass) input.num_mass_rows = limits.samples;
  input.prefill = prefill;
  input.batch = LargestBatch(limits, host_spans);
  if (!prefill) return input;
  input.riders = input.batch;
  input.batch.num_rows = input.batch.max_rows = limits.prefill_rows;
  input.batch.num_seqs = 1;
  return input;
}

// Guesses ride in steps of a row a sequence, as many as those that check them may have.
StepInput LargestGuessStep(StepLimits limits, const SeqSpan* host_spans) {
  limits.rows = std::min(limits.rows, kExactRows);
  limits.samples = std::min(limits.samples, kExactRows);
  StepInput input = LargestStep(limits, false, false, host_spans);
  input.batch.num_seqs = input.batch.num_rows;
  input.batch.max_rows = 1;
  input.batch.visits_lists = input.sees_ends = limits.lists;
  input.draft_weights = true;
  return input;
}

// As much of the largest chunk as can be is read by page lists, and a block audited.
SparseStep LargestSparseStep(const StepLimits& limits, const ModelConfig& config) {
  SparseStep step;
  step.rows.end = limits.prefill_rows / kBlockTokens * kBlockTokens;
  step.rows.densities.assign(config.layers * config.kv_heads, kDense);
  step.rows.audited = {0};
  step.audits.resize(step.rows.densities.size());
  return step;
}

}  // namespace

absl::StatusOr<int64_t> WorkspaceBytes(const ModelParts& parts, const WeightFormats& formats,
                                       const WeightFormats* drafts, const HeadPlan& heads, const KvSizes& sizes,
                                       const StepLimits& limits, const Device& device) {
  const std::unique_ptr<Device> measuring = Device::Measuring(device);
  const std::unique_ptr<Communicator> comm = MakeMeasuringCommunicator(parts.shard.rank, parts.partition.world);
  absl::StatusOr<ModelWeights> weights = LayOutWeights({parts.config, parts.shard, formats}, *measuring);
  if (!weights.ok()) return weights.status();
  absl::StatusOr<Model> model = Model::Create(parts, std::move(*weights), *measuring, *comm);
  if (!model.ok()) return model.status();
  const absl::StatusOr<KvCache> cache = KvCache::Create(*measuring, parts.config, parts.shard, heads, sizes);
  if (!cache.ok()) return cache.status();
  const SeqSpan span;
  Arena arena = Arena::Measuring();
  const bool masses = !parts.provenance.empty();
  for (const bool prefill : {true, false}) model->Forward(LargestStep(limits, prefill, masses, &span), *cache, arena);
  if (SparseStep sparse = LargestSparseStep(limits, parts.config); limits.sparse && sparse.rows.end > 0) {
    StepInput input = LargestStep(limits, true, masses, &span);
    input.sparse = &sparse;
    model->Forward(input, *cache, arena);
  }
  if (parts.shared_rows != nullptr) {
    const SharedRows& shared = *parts.shared_rows;
    absl::StatusOr<PeerShards> peers = MakePeerShards(
        parts.config, shared, formats, [&](const WeightShare& share) { return LayOutWeights(share, *measuring); });
    if (!peers.ok()) return peers.status();
    const RowGroups& groups = shared.groups;
    model->AddRowsPrefill(std::make_unique<RowsPrefill>(shared.shards, groups, *std::move(peers),
                                                        MakeMeasuringCommunicator(groups.group, groups.groups()),
                                                        MakeMeasuringCommunicator(0, groups.ranks)));
    model->Forward(LargestStep(limits, true, masses, &span), *cache, arena);
    if (SparseStep sparse = LargestSparseStep(limits, parts.config); limits.sparse && sparse.rows.end > 0) {
      StepInput input = LargestStep(limits, true, masses, &span);
      input.sparse = &sparse;
      model->Forward(input, *cache, arena);
    }
  }
  if (limits.lists) {
    StepInput input = LargestStep(limits, false, masses, &span);
    input.batch.visits_lists = input.batch.makes_lists = input.sees_ends = true;
    model->Forward(input, *cache, arena);
  }
  if (drafts != nullptr) {
    absl::StatusOr<ModelWeights> copy = LayOutWeights({parts.config, parts.shard, *drafts}, *measuring);
    if (!copy.ok()) return copy.status();
    model->AddDraftWeights(*std::move(copy));
    StepInput input = LargestGuessStep(limits, &span);
    model->Forward(input, *cache, arena);
  }
  if (masses) {
    // A row alone leaves where it looked; reading follows behind that, or behind the queries of many rows.
    StepInput alone = LargestStep(limits, false, true, &span);
    alone.batch.num_rows = alone.batch.max_rows = alone.batch.num_seqs = alone.num_samples = alone.num_mass_rows = 1;
    model->Forward(alone, *cache, arena);
    const int64_t queries = limits.samples * model->mass_reader().columns();
    const size_t many = Arena::Rounded(Bytes(DType::kF32, limits.samples * parts.shard.vocab.size())) +
                        Arena::Rounded(Bytes(ActivationType(device), queries));
    const size_t reading = std::max(many, model->mass_end()) + model->mass_reader().ScratchBytes(limits.max_tokens);
    return static_cast<int64_t>(std::max(arena.peak(), reading) + 64 * Arena::kAlignment);
  }
  // An op may take its scratch in several pieces, each rounded up: a little air.
  return static_cast<int64_t>(arena.peak() + 64 * Arena::kAlignment);
}

}  // namespace duo
