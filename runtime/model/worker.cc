#include "runtime/model/worker.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <set>
#include <utility>

#include "kernels/list_ends.h"
#include "kernels/row_cuts.h"
#include "runtime/model/chosen_lists.h"
#include "runtime/model/sampler.h"

namespace duo {
namespace {

// Lays arrays one after the other, each aligned for 16-byte loads.
struct Packer {
  std::vector<uint8_t>& bytes;
  template <typename T>
  size_t Put(const std::vector<T>& values) {
    const size_t at = RoundUp(bytes.size(), 16);
    bytes.resize(at + values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(bytes.data() + at, values.data(), values.size() * sizeof(T));
    return at;
  }
};

std::vector<int32_t> MassRows(const StepPlan& plan) {
  std::vector<int32_t> rows;
  for (const int32_t sample : plan.mass_samples) rows.push_back(plan.sample_rows[sample]);
  return rows;
}

bool SeesEnds(const SeqSpan& span) { return span.list_use == ListUse::kVisit && span.list == kListOfEnds; }

bool MakesLists(const SeqSpan& span) {
  return span.list_use == ListUse::kChoose || span.list_use == ListUse::kChooseAgain;
}

// The slots of the sequences that make lists.
std::vector<int32_t> MadeLists(const StepPlan& plan) {
  std::vector<int32_t> slots;
  for (const SeqSpan& span : plan.spans) {
    if (MakesLists(span)) slots.push_back(span.list);
  }
  return slots;
}

bool OneRowEach(const StepPlan& plan) {
  return plan.kind == StepKind::kRows && plan.tokens.size() == plan.spans.size() &&
         plan.sample_rows.size() == plan.spans.size() && plan.spans.size() <= Worker::kMaxBatch;
}

// An answer alone whose rows check drafts, no more than rings have room for. The first time that a recorded step is met
// it runs twice, and what the first run wrote must not lie where the second still reads: prompts of which every token's
// probability is wanted have as many samples as rows, too, and no such room.
bool ChecksDrafts(const StepPlan& plan, int ring_slack) {
  return plan.kind == StepKind::kRows && plan.spans.size() == 1 && plan.tokens.size() <= kExactRows &&
         plan.tokens.size() <= size_t{1} + ring_slack && plan.sample_rows.size() == plan.tokens.size() &&
         plan.spans[0].keep_pages == 0;
}

// So many rows of one sequence, which see nothing but themselves and write nothing but the ring.
StepPlan DraftRows(int rows, int spare_ring) {
  StepPlan plan;
  SeqSpan span;
  span.num_rows = rows;
  span.ring = spare_ring;
  span.keep_pages = 1;
  plan.spans.push_back(span);
  for (int row = 0; row < rows; ++row) {
    plan.tokens.push_back(0);
    plan.positions.push_back(row);
    plan.row_seq.push_back(0);
    plan.sample_rows.push_back(row);
    plan.samples.push_back({});
  }
  return plan;
}

// Rows that read one token of table 0 and the last ring set, and write nothing but that ring.
StepPlan PadToBucket(StepPlan plan, int bucket, int spare_ring) {
  while (static_cast<int>(plan.spans.size()) < bucket) {
    const auto row = static_cast<int32_t>(plan.spans.size());
    SeqSpan span;
    span.first_row = row;
    span.num_rows = 1;
    span.ring = spare_ring;
    span.keep_pages = 1;
    plan.spans.push_back(span);
    plan.tokens.push_back(0);
    plan.positions.push_back(0);
    plan.row_seq.push_back(row);
    plan.sample_rows.push_back(row);
    plan.samples.push_back({});
  }
  return plan;
}

}  // namespace

int Worker::Bucket(int batch) {
  DUO_CHECK_LE(batch, kMaxBatch);
  return *std::find_if(std::begin(kBuckets), std::end(kBuckets), [&](int b) { return b >= batch; });
}

absl::StatusOr<std::unique_ptr<Worker>> Worker::Create(Model model, KvCache cache, Arena workspace,
                                                       const StepLimits& limits, Device& device, Communicator& comm) {
  std::unique_ptr<Worker> worker(new Worker(std::move(model), std::move(cache), std::move(workspace)));
  worker->limits_ = limits;
  worker->device_ = &device;
  worker->comm_ = &comm;
  const size_t rows = limits.prefill_rows + limits.rows;
  const size_t input_bytes = rows * (3 * sizeof(int32_t) + sizeof(SeqSpan)) +
                             limits.samples * (2 * sizeof(int32_t) + sizeof(SampleParams)) + 16 * 9;
  absl::StatusOr<Buffer> input = Buffer::Allocate(device, input_bytes, "the step's input");
  if (!input.ok()) return input.status();
  absl::StatusOr<Buffer> samples =
      Buffer::Allocate(device, std::max(limits.samples, 1) * sizeof(ShardSample), "the drawn tokens");
  if (!samples.ok()) return samples.status();
  worker->input_ = std::move(*input);
  worker->samples_ = std::move(*samples);
  return worker;
}

bool Worker::MayShare(const SeqBatch& batch) const {
  std::set<std::pair<int32_t, int32_t>> seen;  // (split, first page)
  for (int i = 0; i < batch.num_seqs; ++i) {
    const SeqSpan& span = batch.host_spans[i];
    if (span.history < kPageTokens) continue;
    for (const auto& [split, table] : {std::pair(0, span.table), std::pair(1, span.split_table)}) {
      const auto page = first_pages_.find({split, table});
      if (page != first_pages_.end() && !seen.insert({split, page->second}).second) return true;
    }
  }
  return false;
}

StepInput Worker::Upload(const StepPlan& plan) {
  const bool prefill = plan.kind == StepKind::kPrefill;
  const int spans = static_cast<int>(plan.spans.size());
  const int chunk = prefill ? plan.spans[0].num_rows : 0;
  host_spans_ = plan.spans;
  row_seq_ = plan.row_seq;
  if (prefill) {  // those that ride with the chunk count from their own first row and sequence
    for (int i = 1; i < spans; ++i) host_spans_[i].first_row -= chunk;
    for (size_t row = chunk; row < row_seq_.size(); ++row) --row_seq_[row];
  }
  staging_.clear();
  Packer pack{staging_};
  const size_t tokens = pack.Put(plan.tokens), positions = pack.Put(plan.positions), row_seq = pack.Put(row_seq_),
               device_spans = pack.Put(host_spans_), sample_rows = pack.Put(plan.sample_rows),
               params = pack.Put(plan.samples), mass_rows = pack.Put(MassRows(plan));
  DUO_CHECK_LE(staging_.size(), input_.size());
  device_->Upload(input_.data(), staging_.data(), staging_.size());

  const uint8_t* base = input_.as<uint8_t>();
  StepInput input;
  input.tokens = reinterpret_cast<const int32_t*>(base + tokens);
  input.sample_rows = reinterpret_cast<const int32_t*>(base + sample_rows);
  input.num_samples = static_cast<int>(plan.sample_rows.size());
  input.mass_rows = reinterpret_cast<const int32_t*>(base + mass_rows);
  input.num_mass_rows = static_cast<int>(plan.mass_samples.size());
  input.prefill = prefill;
  input.list_target = plan.list_target;
  input.draft_weights = plan.draft_weights != 0;
  input.sees_ends = std::any_of(plan.spans.begin(), plan.spans.end(), SeesEnds);
  const auto batch = [&](int first_span, int num_spans, int first_row, int num_rows) {
    SeqBatch b;
    b.spans = reinterpret_cast<const SeqSpan*>(base + device_spans) + first_span;
    b.row_seq = reinterpret_cast<const int32_t*>(base + row_seq) + first_row;
    b.positions = reinterpret_cast<const int32_t*>(base + positions) + first_row;
    b.host_spans = host_spans_.data() + first_span;
    b.num_seqs = num_spans;
    b.num_rows = num_rows;
    for (int i = first_span; i < first_span + num_spans; ++i) {
      b.max_rows = std::max(b.max_rows, host_spans_[i].num_rows);
      b.max_tokens = std::max<int64_t>(b.max_tokens, host_spans_[i].history + host_spans_[i].num_rows);
      b.visits_lists |= host_spans_[i].list_use == ListUse::kVisit;
      b.makes_lists |= MakesLists(host_spans_[i]);
    }
    b.may_share = MayShare(b);
    return b;
  };
  const int rows = static_cast<int>(plan.tokens.size());
  if (prefill) {
    input.batch = batch(0, 1, 0, chunk);
    // A chunk is sized for the longest session from the start: one set of the kernels' plans serves all its histories.
    input.batch.max_tokens = limits_.max_tokens;
    input.riders = batch(1, spans - 1, chunk, rows - chunk);
    if (plan.sparse.begin < plan.sparse.end) {
      sparse_.rows = plan.sparse;
      sparse_.audits.assign(plan.sparse.audited.size() * plan.sparse.densities.size(), PageAudit());
      input.sparse = &sparse_;
    }
  } else {
    input.batch = batch(0, spans, 0, rows);
  }
  device_params_ = reinterpret_cast<const SampleParams*>(base + params);
  return input;
}

void Worker::RunModel(const StepInput& input) {
  logits_ = model_.Forward(input, cache_, arena_);
  if (input.num_samples > 0) {
    SampleShard(*device_, samples_.as<ShardSample>(), logits_, model_.weights().first_id, device_params_);
  }
}

void Worker::RunRecorded(StepInput input) {
  // A recorded step serves every length: it must not look at the host's copy of the lengths.
  input.batch.host_spans = nullptr;
  input.batch.max_tokens = limits_.max_tokens;
  const SeqBatch& batch = input.batch;
  Graph& graph = graphs_[{batch.num_seqs, batch.num_rows, batch.may_share, batch.visits_lists, input.sees_ends,
                          input.draft_weights}];
  if (!graph.graph.valid()) {
    // Once directly: libraries choose their algorithms outside the recording. It computes the same step, so nothing is
    // changed by running it again: pages and rings are written with the same values.
    RunModel(input);
    graph.graph = device_->Capture([&] { RunModel(input); });
    graph.logits = logits_;
  }
  device_->Launch(graph.graph);
  logits_ = graph.logits;
}

void Worker::RecordBatch(StepInput input) {
  RunRecorded(input);
  if (!limits_.lists) return;
  input.batch.visits_lists = true;
  RunRecorded(input);
  if (cache_.sizes().ring_slack == 0) return;  // nobody guesses
  input.sees_ends = true;
  RunRecorded(input);
}

void Worker::RecordGraphs() {
  if (!Records()) return;
  device_->BindThread();
  const int most = Bucket(limits_.batch);
  for (const int bucket : kBuckets) {
    if (bucket > most) break;
    for (const bool may_share : {false, true}) {
      if (bucket == 1 && may_share) continue;
      StepInput input = Upload(PadToBucket({}, bucket, cache_.sizes().rings - 1));
      input.batch.may_share = may_share;
      RecordBatch(input);
      if (!model_.has_draft_weights() || bucket > kExactRows) continue;
      input.draft_weights = true;
      RecordBatch(input);
    }
  }
  for (int rows = 2; rows <= std::min({1 + cache_.sizes().ring_slack, kExactRows, limits_.rows, limits_.samples});
       ++rows) {
    RunRecorded(Upload(DraftRows(rows, cache_.sizes().rings - 1)));
  }
  device_->Synchronize();
}

// Rank 0 gets [rows][vocab]; the shards lie in rank order, so a row is their concatenation.
std::vector<float> Worker::GatherLogits(int rows) {
  const int64_t mine = logits_.cols, vocab = model_.config().vocab;
  std::vector<float> shard(rows * mine);
  device_->Download(shard.data(), logits_.data, 4 * shard.size());
  std::vector<int64_t> widths(comm_->size());
  comm_->AllGatherHost(widths.data(), &mine, sizeof mine);
  const int64_t widest = *std::max_element(widths.begin(), widths.end());
  std::vector<float> padded(rows * widest), all(rows * widest * comm_->size());
  for (int r = 0; r < rows; ++r) std::copy_n(shard.data() + r * mine, mine, padded.data() + r * widest);
  comm_->AllGatherHost(all.data(), padded.data(), 4 * padded.size());
  std::vector<float> logits(rows * vocab);
  int64_t first = 0;
  for (int rank = 0; rank < comm_->size(); ++rank) {
    for (int r = 0; r < rows; ++r) {
      std::copy_n(all.data() + (rank * rows + r) * widest, widths[rank], logits.data() + r * vocab + first);
    }
    first += widths[rank];
  }
  return logits;
}

// Every head's audits from a rank that holds it whole; a page of its own is on every list, so what a rank has not
// filled in has no mass.
SparseAudits Worker::GatherAudits(const StepPlan& plan) {
  SparseAudits audits;
  audits.positions = plan.sparse.audited;
  const size_t count = sparse_.audits.size();
  std::vector<PageAudit> all(count * comm_->size());
  comm_->AllGatherHost(all.data(), sparse_.audits.data(), count * sizeof(PageAudit));
  audits.heads.resize(count);
  for (int rank = comm_->size() - 1; rank >= 0; --rank) {
    for (size_t i = 0; i < count; ++i) {
      if (all[rank * count + i].mass[0] > 0) audits.heads[i] = all[rank * count + i];
    }
  }
  return audits;
}

StepResult Worker::Execute(const StepPlan& plan) {
  device_->BindThread();
  const int32_t* ids = plan.table_ids.data();
  for (const TableWrite& write : plan.table_writes) {
    cache_.WriteTable(*device_, write.split != 0, write.table, write.first, ids, write.count);
    if (write.first == 0 && write.count > 0) first_pages_[{write.split, write.table}] = ids[0];
    ids += write.count;
  }
  for (const IdCopy& copy : plan.page_copies) cache_.CopyPages(*device_, copy.split != 0, copy.from, copy.to);
  for (const IdCopy& copy : plan.ring_copies) cache_.CopyRings(*device_, copy.from, copy.to);
  StepResult result;
  if (plan.kind == StepKind::kCacheUpdates || plan.tokens.empty()) {
    device_->Synchronize();
    return result;
  }

  const int wanted = static_cast<int>(plan.sample_rows.size());
  DUO_CHECK_LE(wanted, limits_.samples);
  const std::vector<int32_t> lists = MadeLists(plan);
  const bool records = Records() && plan.mass_samples.empty() && lists.empty();
  if (records && OneRowEach(plan)) {
    const int bucket = Bucket(static_cast<int>(plan.spans.size()));
    RunRecorded(Upload(PadToBucket(plan, bucket, cache_.sizes().rings - 1)));
  } else if (records && ChecksDrafts(plan, cache_.sizes().ring_slack)) {
    RunRecorded(Upload(plan));
  } else {
    RunModel(Upload(plan));
  }
  if (!plan.sparse.audited.empty()) result.audits = GatherAudits(plan);
  if (!lists.empty()) {
    result.lists = ReadChosenLists(*device_, *comm_, cache_, model_.shard(), model_.config().kv_heads, lists);
  }
  if (wanted == 0) {
    device_->Synchronize();
    return result;
  }
  std::vector<ShardSample> shards(wanted);
  device_->Download(shards.data(), samples_.data(), shards.size() * sizeof(ShardSample));
  if (plan.want_logits != 0) result.logits = GatherLogits(wanted);
  // Logits lie at the arena's start, and behind them what was kept of where rows looked.
  const size_t drawn_from = Arena::Rounded(Bytes(DType::kF32, logits_.rows * logits_.cols));
  if (!plan.mass_samples.empty()) {
    const View queries = model_.mass_queries();
    arena_.Rewind(model_.mass_end());
    result.masses = model_.mass_reader().Read(*device_, *comm_, cache_, queries, model_.kept_mass(), plan, arena_);
  }
  arena_.Rewind(drawn_from);
  StepResult drawn = DrawTokens(*device_, *comm_, shards, {logits_, model_.weights().first_id}, plan, arena_);
  drawn.logits = std::move(result.logits);
  drawn.masses = std::move(result.masses);
  drawn.audits = std::move(result.audits);
  drawn.lists = std::move(result.lists);
  return drawn;
}

}  // namespace duo
