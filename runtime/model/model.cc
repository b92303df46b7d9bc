#include "runtime/model/model.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "kernels/attention.h"
#include "kernels/decode_lists.h"
#include "kernels/ops.h"

namespace duo {
namespace {

// The layer's split pieces, per rank, as query head ids; -1 pads to the largest rank.
std::vector<int32_t> ExchangeIds(const std::vector<RankHeads>& layer, int group, int* entries) {
  size_t pieces = 0;
  for (const RankHeads& rank : layer) pieces = std::max(pieces, rank.split.size());
  *entries = static_cast<int>(pieces) * group;
  std::vector<int32_t> ids(layer.size() * *entries, -1);
  for (size_t r = 0; r < layer.size(); ++r) {
    for (size_t p = 0; p < layer[r].split.size(); ++p) {
      for (int g = 0; g < group; ++g) ids[r * *entries + p * group + g] = layer[r].split[p].head * group + g;
    }
  }
  return ids;
}

int MaxEntries(const Partition& partition, int group) {
  int most = 0;
  for (const std::vector<RankHeads>& layer : partition.layers) {
    int entries = 0;
    ExchangeIds(layer, group, &entries);
    most = std::max(most, entries);
  }
  return most;
}

// Of this rank's heads of a layer, in their order.
std::vector<float> OwnShift(const std::vector<float>& all, const std::vector<LocalHead>& heads, int layer,
                            const ModelConfig& config) {
  std::vector<float> own;
  for (const LocalHead& head : heads) {
    const auto at = all.begin() + (int64_t{layer} * config.kv_heads + head.kv_head) * config.head_dim;
    own.insert(own.end(), at, at + config.head_dim);
  }
  return own;
}

int MaxHeads(const RankShard& shard) {
  size_t most = 0;
  for (const auto& layer : shard.layers) most = std::max(most, layer.size());
  return static_cast<int>(most);
}

}  // namespace

absl::StatusOr<Model> Model::Create(const ModelParts& parts, ModelWeights weights, Device& device, Communicator& comm) {
  const ModelConfig& config = parts.config;
  const Partition& partition = parts.partition;
  const std::vector<double>& frequencies = parts.rope.inv_freq;
  Model model;
  model.config_ = config;
  model.shard_ = parts.shard;
  model.weights_ = std::move(weights);
  model.rope_factor_ = parts.rope.attention_factor;
  model.chunks_ = parts.chunks;
  model.device_ = &device;
  model.comm_ = &comm;
  const int group = config.heads / config.kv_heads;
  model.max_entries_ = MaxEntries(partition, group);
  model.mass_reader_ = MassReader(parts.provenance, parts.shard, group, config.head_dim);

  const size_t ids_stride = Arena::Rounded(4 * partition.world * model.max_entries_);
  const size_t frequency_bytes = Arena::Rounded(8 * frequencies.size());
  std::vector<int32_t> own_ids(static_cast<size_t>(MaxHeads(parts.shard)) * group);
  std::iota(own_ids.begin(), own_ids.end(), 0);
  const size_t own_at = frequency_bytes + ids_stride * config.layers;
  const size_t shift_at = own_at + Arena::Rounded(4 * own_ids.size());
  const size_t shift_stride =
      parts.key_shift.empty() ? 0 : Arena::Rounded(sizeof(float) * MaxHeads(parts.shard) * config.head_dim);
  absl::StatusOr<Buffer> constants =
      Buffer::Allocate(device, shift_at + shift_stride * config.layers, "the model's constants");
  if (!constants.ok()) return constants.status();
  model.constants_ = std::move(*constants);
  uint8_t* data = model.constants_.as<uint8_t>();
  device.Upload(data, frequencies.data(), 8 * frequencies.size());
  model.frequencies_ = reinterpret_cast<const double*>(data);
  device.Upload(data + own_at, own_ids.data(), 4 * own_ids.size());
  model.own_ids_ = reinterpret_cast<const int32_t*>(data + own_at);

  for (int l = 0; l < config.layers; ++l) {
    Exchange exchange;
    const std::vector<int32_t> ids = ExchangeIds(partition.layers[l], group, &exchange.entries);
    uint8_t* place = data + frequency_bytes + ids_stride * l;
    device.Upload(place, ids.data(), 4 * ids.size());
    exchange.ids = reinterpret_cast<const int32_t*>(place);
    for (const SplitPiece& piece : partition.layers[l][parts.shard.rank].split) {
      exchange.heads += group;
      exchange.own_square.push_back(ChunkOwner(partition, l, piece.head) == parts.shard.rank);
    }
    model.exchanges_.push_back(std::move(exchange));
    if (parts.key_shift.empty()) continue;
    const std::vector<float> shift = OwnShift(parts.key_shift, parts.shard.layers[l], l, config);
    uint8_t* shift_place = data + shift_at + shift_stride * l;
    device.Upload(shift_place, shift.data(), sizeof(float) * shift.size());
    model.key_shift_.push_back(reinterpret_cast<const float*>(shift_place));
  }
  return model;
}

// A row alone that sees everything leaves where it looked; of others the keys are read once more.
KeptMass Model::TakeKeptMass(Arena& arena, const StepInput& input, const KvCache& cache) const {
  const SeqBatch& batch = input.batch;
  if (input.num_mass_rows != 1 || input.rows() != 1 || input.prefill || batch.visits_lists) return {};
  DUO_CHECK(batch.host_spans != nullptr);
  const int64_t last = device_->measuring() ? batch.max_tokens : batch.host_spans[0].history;
  KeptMass kept;
  kept.pages = last / kPageTokens + 1;
  kept.parts = mass_reader_.KeptParts(*device_, cache);
  if (kept.parts == 0) return {};
  kept.logs = static_cast<float*>(arena.Take(sizeof(float) * mass_reader_.KeptFloats(kept.pages, kept.parts)));
  return kept;
}

void Model::AddDraftWeights(ModelWeights weights) {
  draft_weights_ = std::move(weights);
  draft_weights_.outer.matrices[static_cast<size_t>(WeightRole::kEmbedding)] = weights_.outer[WeightRole::kEmbedding];
}

Model::Workspace Model::Allocate(Arena& arena, const StepInput& input, const KvCache& cache) const {
  const int rows = input.rows();
  const DType t = ActivationType(*device_);
  const int64_t d = config_.head_dim, group = config_.heads / config_.kv_heads, heads = MaxHeads(shard_);
  const bool by_rows = ByRows(input);
  Workspace w;
  if (by_rows) w.rows = rows_prefill_->RowsOf(rows);
  const int64_t own_rows = by_rows ? w.rows[rows_prefill_->own()].size() : rows;
  const int64_t block = std::min<int64_t>(own_rows, Transformer::kMlpRows);
  const int64_t ffn = by_rows ? rows_prefill_->MlpColumnsOf(config_) : MlpColumns(config_, shard_);
  // First: what is behind these can be rewound.
  w.logits = arena.Matrix(DType::kF32, input.num_samples, shard_.vocab.size());
  if (input.num_mass_rows > 0) w.queries = arena.Matrix(t, input.num_mass_rows, mass_reader_.columns());
  w.kept = TakeKeptMass(arena, input, cache);
  w.kept_end = arena.used();
  Activations& a = w.a;
  a.residual = arena.Matrix(DType::kF32, own_rows, config_.hidden);
  a.normed = arena.Matrix(t, own_rows, config_.hidden);
  a.projected = arena.Matrix(t, own_rows, config_.hidden);
  a.mlp = arena.Matrix(t, own_rows, config_.hidden);
  if (by_rows) {
    w.sent = arena.Take(rows_prefill_->SentBytes(config_, t, own_rows));
    w.returned = arena.Take(rows_prefill_->ReturnedBytes(config_, t, own_rows));
    if (input.num_samples > 0) w.all_normed = arena.Matrix(t, rows, config_.hidden);
  }
  const bool by_chunks = chunks_.length > 0;
  a.cos_sin = arena.Matrix(DType::kF32, rows, by_chunks ? (kChunkKinds + 1) * d : d);
  a.qkv = arena.Matrix(t, rows, heads * (group + 2) * d);
  w.attended = arena.Matrix(t, rows, heads * group * d);
  a.gate_up = arena.Matrix(t, block, 2 * ffn);
  a.product = arena.Matrix(t, block, ffn);
  w.lse = static_cast<float*>(arena.Take(sizeof(float) * comm_->size() * max_entries_ * rows));
  const auto take_lse = [&] { return static_cast<float*>(arena.Take(sizeof(float) * heads * group * rows)); };
  if (config_.attention_sinks) w.own_lse = take_lse();
  if (!by_chunks) return w;
  a.chunk_queries.previous = arena.Matrix(t, rows, heads * group * d);
  a.chunk_queries.earlier = arena.Matrix(t, rows, heads * group * d);
  w.part = arena.Matrix(t, rows, heads * group * d);
  w.part_lse = take_lse();
  w.chunk_lse = take_lse();
  return w;
}

View Model::Forward(const StepInput& input, const KvCache& cache, Arena& arena) {
  arena.Rewind(0);
  const Workspace w = Allocate(arena, input, cache);
  mass_queries_ = w.queries;
  kept_mass_ = w.kept;
  mass_end_ = w.kept_end;
  const Activations& a = w.a;
  if (chunks_.length == 0) {
    RopeAngles(*device_, a.cos_sin, input.batch.positions, frequencies_, rope_factor_);
  } else {
    ChunkAngles(*device_, a.cos_sin, input.batch.positions, frequencies_, rope_factor_, chunks_);
  }
  // A step in which one sequence alone checks drafts. Of several sequences each takes its rows as they come.
  device_->KeepRowsAlike(input.batch.num_seqs == 1 && input.riders.num_rows == 0);
  StepInput planned = input;
  if (!input.prefill) PlanStep(planned.batch, cache, arena);
  if (input.riders.num_rows > 0) PlanStep(planned.riders, cache, arena);
  const ModelWeights& weights = input.draft_weights ? draft_weights_ : weights_;
  Transformer transformer(config_, weights, *device_, *comm_, arena, routes_.get());
  const auto attend = [&](int layer, View qkv) {
    const LayerKv& kv = cache.layers()[layer];
    const float* shift = key_shift_.empty() ? nullptr : key_shift_[layer];
    const StoredPages store = {planned.batch, kv.paged};
    transformer.Rotate(layer, a, kv.shape, qkv, View(), shift, StoresAtOnce(input) ? &store : nullptr);
    if (input.num_mass_rows > 0) {
      mass_reader_.Keep(*device_, layer, qkv, kv.shape, input.mass_rows, input.num_mass_rows, w.queries);
    }
    return Attend(layer, planned, kv, w, qkv, arena);
  };
  View sampled;
  const auto take_sampled = [&] { sampled = arena.Matrix(a.normed.dtype, input.num_samples, config_.hidden); };
  if (ByRows(input)) {
    const RowsStep step = {config_, weights, *device_, arena, a, w.rows, w.sent, w.returned};
    const View add = rows_prefill_->Run(step, input.tokens, attend);
    if (input.num_samples == 0) return w.logits;
    take_sampled();
    rows_prefill_->Finish(step, add, w.all_normed, sampled, input.sample_rows, input.num_samples);
  } else {
    const View add = transformer.Run(a, input.tokens, [&](int layer, View from_below) {
      const HeadShape& shape = cache.layers()[layer].shape;
      const View qkv(a.qkv.data, a.qkv.dtype, a.residual.rows, shape.qkv_cols());
      transformer.QkvInput(layer, a, from_below);
      transformer.Project(layer, a, qkv);
      return attend(layer, qkv);
    });
    if (input.num_samples == 0) return w.logits;
    transformer.Finish(a, add, a.normed);
    take_sampled();
    GatherRows(*device_, sampled, a.normed, input.sample_rows, input.num_samples);
  }
  Linear(*device_, w.logits, sampled, weights.outer[WeightRole::kHead], arena);
  return w.logits;
}

// Once for whole heads and once for split ones, by the first layer that has any.
void Model::PlanStep(SeqBatch& batch, const KvCache& cache, Arena& arena) {
  bool planned[2] = {};
  for (const LayerKv& layer : cache.layers()) {
    for (const PagedKv& heads : layer.paged) {
      if (!std::exchange(planned[heads.split], true)) PlanPages(*device_, batch, layer.shape.group, heads, arena);
    }
  }
}

View Model::Attend(int layer, const StepInput& input, const LayerKv& kv, const Workspace& w, View qkv, Arena& arena) {
  const HeadShape& shape = kv.shape;
  const View out(w.attended.data, w.attended.dtype, qkv.rows, shape.q_cols());
  if (kv.ring.num_heads > 0) RoundToRing(*device_, qkv, shape, kv.ring);
  const int64_t first = input.batch.num_rows, riders = input.riders.num_rows;
  // Streaming heads beside attention over pages have no multiprocessor once that has begun, unless room is kept. One
  // answer takes 14 % less with it at 100,000 tokens of bf16, and 0.4 % more at a million (one H200,
  // h200_launches.json); on four GPUs a step of a million takes 2 % less (h200_four_gpus.json). Several sequences,
  // which need more room than there is, were not measured on fewer.
  const auto rows = [&](int64_t at, const SeqBatch& batch) {
    const bool keep_room = chunks_.length == 0 && (comm_->size() > 2 || batch.num_seqs == 1);
    return StepRows{qkv.Rows(at, batch.num_rows), shape, batch, keep_room ? kv.ring.num_heads * batch.num_seqs : 0};
  };
  const auto part = [&](int64_t at, const SeqBatch& batch) {
    const int64_t before = int64_t{shape.kv_heads} * shape.group * at;
    const auto behind = [&](float* lse) { return lse == nullptr ? nullptr : lse + before; };
    Part p = {rows(at, batch), out.Rows(at, batch.num_rows), w.lse + comm_->size() * max_entries_ * at,
              behind(w.own_lse), false};
    p.list_target = input.list_target;
    if (chunks_.length == 0) return p;
    const ChunkQueries queries = DenseQueries(w.a, shape);
    p.queries = {queries.previous.Rows(at, batch.num_rows), queries.earlier.Rows(at, batch.num_rows)};
    const View other(w.part.data, w.part.dtype, qkv.rows, shape.q_cols());
    p.other = {other.Rows(at, batch.num_rows), behind(w.part_lse)};
    p.chunk_lse = behind(w.chunk_lse);
    return p;
  };
  Part step = part(0, input.batch);
  step.prefill = input.prefill;
  step.sparse = input.sparse;
  step.kept = w.kept;
  step.sees_ends = input.sees_ends;
  step.stored = StoresAtOnce(input);
  AttendPart(layer, kv, step, arena);
  if (riders > 0) AttendPart(layer, kv, part(first, input.riders), arena);
  return out;
}

void Model::AttendPart(int layer, const LayerKv& kv, const Part& part, Arena& arena) {
  Device& device = *device_;
  const Exchange& exchange = exchanges_[layer];
  // Streaming heads are a few microseconds of latency: beside the retrieval heads they cost less than after them. As
  // part of the retrieval heads' launch they cost least, for behind one that fills the device they wait for its end.
  auto stream = [&] {
    AttendByChunks(part, part.rows, {part.out, OwnLse(layer, part, kv.ring.first_head)}, kv.ring.first_head,
                   kv.ring.num_heads,
                   [&](const Partial& to, const StepRows& rows) { AttendStreaming(device, to, rows, kv.ring, arena); });
    StoreRings(device, part.rows, kv.ring);
  };
  // Not by chunks, whose partial results of both lie in one place.
  const bool streaming = kv.ring.num_heads > 0 && !StreamsInPages(kv, part);
  const bool beside = streaming && !part.prefill && chunks_.length == 0;
  if (beside) device.Fork(stream);
  AttendPaged(layer, kv, part, arena);
  if (streaming && !beside) stream();
  if (beside) device.Join();
  const int d = part.rows.shape.head_dim, own = part.rows.shape.kv_heads * part.rows.shape.group - exchange.heads;
  const float* sinks = config_.attention_sinks ? weights_.layers[layer].vector(WeightRole::kSinks) : nullptr;
  if (exchange.heads > 0) {
    ScaleSplitHeads(device, part.out.Cols(0, exchange.heads * d), d, exchange.heads,
                    {part.lse, exchange.ids, comm_->size(), exchange.entries, comm_->rank(), sinks});
  }
  if (sinks != nullptr && own > 0) {
    ScaleSplitHeads(device, part.out.Cols(exchange.heads * d, own * d), d, own,
                    {part.own_lse, own_ids_, 1, own, 0, sinks + exchange.heads});
  }
}

// Do the layer's first retrieval heads take its streaming heads along?
bool Model::StreamsInPages(const LayerKv& kv, const Part& part) const {
  if (part.prefill || chunks_.length > 0 || kv.paged.empty() || kv.ring.num_heads == 0) return false;
  return StreamsBesidePages(*device_, part.rows, kv.paged[0], kv.ring);
}

// Where the lse of whole and streaming heads go, from this rank's KV head `first_head` on; null where nobody asks.
float* Model::OwnLse(int layer, const Part& part, int first_head) const {
  if (part.own_lse == nullptr) return nullptr;
  const int64_t head = int64_t{first_head} * part.rows.shape.group - exchanges_[layer].heads;
  return part.own_lse + head * part.rows.qkv.rows;
}

// Retrieval heads. Pieces of split heads first: their lse travel while the other heads are attended.
void Model::AttendPaged(int layer, const LayerKv& kv, const Part& part, Arena& arena) {
  const Exchange& exchange = exchanges_[layer];
  StepRows rows = part.rows;
  if (StreamsInPages(kv, part)) {
    rows.streaming = {&kv.ring, OwnLse(layer, part, kv.ring.first_head)};
    rows.blocks_beside = 0;  // nothing else runs beside
  }
  const int64_t count = rows.qkv.rows;
  if (!part.stored) {
    for (const PagedKv& heads : kv.paged) StoreKv(*device_, rows, heads);
  }
  auto attend = [&](const PagedKv& heads, float* lse, bool own_square) {
    if (part.sparse != nullptr && !heads.split) {
      AttendSparse(layer, heads, part, arena);
    } else if (chunks_.length > 0 || part.prefill) {
      AttendByChunks(part, rows, {part.out, lse}, heads.first_head, heads.num_heads,
                     [&](const Partial& to, const StepRows& some) {
                       if (part.prefill) return AttendPrefill(*device_, to, some, heads, own_square, arena);
                       AttendPages(*device_, to, some, heads, arena);
                     });
    } else {
      const bool listed = !heads.split && kv.lists.slots > 0;
      if (!heads.split && (part.sees_ends || (listed && rows.batch.visits_lists))) {
        AttendListed(*device_, {part.out, lse}, rows, heads, kv.lists, arena);
      } else if (const MassOut mass = mass_reader_.Leaves(layer, heads, part.kept); mass.heads != 0) {
        AttendPagesWithMass(*device_, {part.out, lse}, rows, heads, mass, arena);
      } else {
        AttendPages(*device_, {part.out, lse}, rows, heads, arena);
      }
      if (listed && rows.batch.makes_lists) ChoosePages(*device_, kv.lists, rows, heads, part.list_target, arena);
      rows.streaming = {};  // they are done, or have had their time
      rows.blocks_beside = 0;
    }
  };
  float* lse = part.lse + comm_->rank() * exchange.entries * count;  // this rank's place in the gather
  size_t next = 0;
  for (; next < kv.paged.size() && kv.paged[next].split; ++next) {
    attend(kv.paged[next], lse + static_cast<int64_t>(next) * rows.shape.group * count, exchange.own_square[next]);
  }
  if (exchange.entries > 0) comm_->AllGather(part.lse, lse, sizeof(float) * exchange.entries * count, *device_);
  for (; next < kv.paged.size(); ++next) {
    attend(kv.paged[next], OwnLse(layer, part, kv.paged[next].first_head), true);
  }
}

void Model::AttendByChunks(const Part& part, const StepRows& rows, Partial to, int first_head, int heads,
                           absl::FunctionRef<void(const Partial&, const StepRows&)> attend) {
  if (chunks_.length == 0) return attend(to, rows);
  // A step that is recorded is for all lengths, and one that is measured for the longest.
  const SeqBatch& batch = rows.batch;
  int64_t tokens = 0;
  for (int s = 0; batch.host_spans != nullptr && s < batch.num_seqs && !device_->measuring(); ++s) {
    tokens = std::max<int64_t>(tokens, batch.host_spans[s].history + batch.host_spans[s].num_rows);
  }
  const bool known = tokens > 0;
  if (known && tokens <= chunks_.length) return attend(to, rows);  // all in the first one
  const int64_t d = rows.shape.head_dim, group = rows.shape.group, q_heads = heads * group;
  if (to.lse == nullptr) to.lse = part.chunk_lse + first_head * group * batch.num_rows;
  StepRows some = rows;
  some.part.chunks = chunks_;
  attend(to, some);
  const Partial other = {part.other.out, part.other.lse};
  const auto columns = [&](const View& out) { return out.Cols(first_head * group * d, q_heads * d); };
  for (const ChunkKind kind : {ChunkKind::kPrevious, ChunkKind::kEarlier}) {
    if (kind == ChunkKind::kEarlier && known && tokens <= int64_t{2} * chunks_.length) break;
    some.part.kind = kind;
    some.part.q = kind == ChunkKind::kPrevious ? part.queries.previous : part.queries.earlier;
    attend(other, some);
    MergePartial(*device_, {columns(to.out), to.lse}, {columns(other.out), other.lse}, static_cast<int>(q_heads));
  }
}

// Whole heads of a chunk that is read by page lists. Models with learned sinks, which need lse, are never read so.
void Model::AttendSparse(int layer, const PagedKv& heads, const Part& part, Arena& arena) {
  DUO_CHECK(part.own_lse == nullptr);
  std::vector<int> ids;
  for (int i = 0; i < heads.num_heads; ++i) ids.push_back(shard_.layers[layer][heads.first_head + i].kv_head);
  AttendSparsePrefill(*device_, part.out, part.rows, {heads, layer * static_cast<int>(config_.kv_heads), ids},
                      *part.sparse, arena);
}

}  // namespace duo
