#include "launcher/serve/ops/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <cmath>

#include "launcher/serve/ops/metrics_page.h"
#include "launcher/serve/ops/process_metrics.h"
#include "launcher/terminal/version.h"
#include "parallel/held_heads.h"

namespace duo {
namespace {

// 1 ms to about a quarter of an hour, factor 2.
prometheus::Histogram::BucketBoundaries LatencyBuckets() {
  prometheus::Histogram::BucketBoundaries bounds;
  for (int i = 0; i <= 20; ++i) bounds.push_back(0.001 * std::exp2(i));
  return bounds;
}

}  // namespace

struct Metrics::State {
  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  std::unique_ptr<MetricsPage> page;

  prometheus::Gauge& Gauge(const char* name, const char* help, const prometheus::Labels& labels = {}) {
    return prometheus::BuildGauge().Name(name).Help(help).Register(*registry).Add(labels);
  }
  prometheus::Counter& Counter(const char* name, const char* help, const prometheus::Labels& labels = {}) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(*registry).Add(labels);
  }
  prometheus::Histogram& Histogram(const char* name, const char* help, const prometheus::Labels& labels = {}) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(*registry).Add(labels, LatencyBuckets());
  }
  prometheus::Family<prometheus::Counter>& calls =
      prometheus::BuildCounter().Name("duo_calls_total").Help("RPCs by method and code").Register(*registry);
  prometheus::Histogram& first_token =
      Histogram("duo_first_token_seconds", "From a question's call to its first token");
  prometheus::Histogram& token = Histogram("duo_token_seconds", "Mean time per token of an answer");
  prometheus::Histogram& queue = Histogram("duo_queue_seconds", "What a question waited for its first step");
  prometheus::Histogram& append = Histogram("duo_append_seconds", "What an append waited and was read");
  prometheus::Histogram& chunk_step =
      Histogram("duo_step_seconds", "Time of a step: a chunk of one long text and what rides with it, or rows of many",
                {{"kind", "chunk"}});
  prometheus::Histogram& rows_step = Histogram("duo_step_seconds", "", {{"kind", "rows"}});
  prometheus::Histogram& gap =
      Histogram("duo_gap_seconds", "Time of a step that answers had a token from, by what was read beside",
                {{"beside", "nothing"}});
  prometheus::Histogram& gap_beside = Histogram("duo_gap_seconds", "", {{"beside", "read"}});
  prometheus::Histogram& batch =
      prometheus::BuildHistogram()
          .Name("duo_batch_sequences")
          .Help("Sequences of a step")
          .Register(*registry)
          .Add({}, prometheus::Histogram::BucketBoundaries{1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256});
  prometheus::Counter& steps = Counter("duo_steps_total", "Engine steps");
  prometheus::Counter& prefill = Counter("duo_tokens_total", "Tokens run through the model", {{"kind", "prefill"}});
  prometheus::Counter& decode = Counter("duo_tokens_total", "Tokens run through the model", {{"kind", "decode"}});
  prometheus::Counter& draw_steps =
      Counter("duo_draw_steps_total", "Steps that answers had tokens from, one for each answer in a step");
  prometheus::Counter& accepted =
      Counter("duo_drafts_total", "Drafts of answers' tokens, by what their check said", {{"draft", "right"}});
  prometheus::Counter& refused =
      Counter("duo_drafts_total", "Drafts of answers' tokens, by what their check said", {{"draft", "wrong"}});
  prometheus::Counter& listed =
      Counter("duo_listed_tokens_total", "Answers' tokens that were not drawn from all pages (--decode-sparsity)");
  prometheus::Counter& list_audits =
      Counter("duo_list_audits_total", "Answers' tokens that were, and measured what the pages before them kept");
  prometheus::Counter& list_mass = Counter(
      "duo_list_mass_total", "The share of attention that they kept, the mean over heads, added up over audits");
  prometheus::Counter& busy = Counter("duo_busy_seconds_total", "Time spent in steps");
  prometheus::Counter& checkpoints = Counter("duo_checkpoints_total", "Durable checkpoints of appends");
  prometheus::Counter& saved = Counter("duo_saved_bytes_total", "Bytes written by saves");
  prometheus::Counter& restored = Counter("duo_restored_bytes_total", "Bytes read by restores");
  prometheus::Counter& prefix_queries = Counter("duo_prefix_queries_total", "Prompts that looked for a prefix");
  prometheus::Counter& prefix_hits = Counter("duo_prefix_hits_total", "Of them, those that went on with one");
  prometheus::Counter& prefix_open = Counter(
      "duo_prefix_hit_tokens_total", "Tokens that were not read again, by where they were", {{"source", "open"}});
  prometheus::Counter& prefix_read = Counter("duo_prefix_hit_tokens_total", "", {{"source", "read"}});
  prometheus::Counter& prefix_moved_out = Counter("duo_prefix_hit_tokens_total", "", {{"source", "moved_out"}});
  prometheus::Counter& prefix_saved_hits = Counter("duo_prefix_hit_tokens_total", "", {{"source", "saved"}});
  prometheus::Counter& prefix_refed =
      Counter("duo_prefix_refed_tokens_total", "Of them, those fed again to rebuild rings");
  prometheus::Counter& prefix_evictions = Counter("duo_prefix_evictions_total", "Prefixes dropped for room");
  prometheus::Counter& prefix_saved =
      Counter("duo_prefix_saved_seconds_total", "Predicted: of reading that hits saved, less rebuilding rings");
  prometheus::Gauge& prefixes = Gauge("duo_prefixes", "What prompts left, by where it is", {{"where", "open"}});
  prometheus::Gauge& prefixes_saved = Gauge("duo_prefixes", "", {{"where", "saved"}});
  prometheus::Gauge& running = Gauge("duo_requests", "Requests in the engine", {{"state", "running"}});
  prometheus::Gauge& waiting = Gauge("duo_requests", "Requests in the engine", {{"state", "waiting"}});
  prometheus::Gauge& calls_now = Gauge("duo_calls_in_progress", "Calls that wait or run");
  prometheus::Gauge& open = Gauge("duo_sessions", "Sessions", {{"residence", "open"}});
  prometheus::Gauge& moved_out = Gauge("duo_sessions", "Sessions", {{"residence", "moved_out"}});
  prometheus::Gauge& whole_used = Gauge("duo_kv_bytes", "KV cache in use", {{"class", "retrieval"}});
  prometheus::Gauge& split_used = Gauge("duo_kv_bytes", "KV cache in use", {{"class", "retrieval_split"}});
  prometheus::Gauge& rings_used = Gauge("duo_kv_bytes", "KV cache in use", {{"class", "streaming"}});
  std::vector<RankKv> ranks;
  std::vector<prometheus::Gauge*> rank_used;
  prometheus::Gauge& draining = Gauge("duo_draining", "1 while the server drains");
  prometheus::Gauge& whole_room = Gauge("duo_kv_room_bytes", "KV cache that there is", {{"class", "retrieval"}});
  prometheus::Gauge& split_room = Gauge("duo_kv_room_bytes", "KV cache that there is", {{"class", "retrieval_split"}});
  prometheus::Gauge& rings_room = Gauge("duo_kv_room_bytes", "KV cache that there is", {{"class", "streaming"}});
  prometheus::Gauge& pages_used = Gauge("duo_pages", "Pages of the whole heads", {{"state", "used"}});
  prometheus::Gauge& pages_promised = Gauge("duo_pages", "Pages of the whole heads", {{"state", "promised"}});
  prometheus::Gauge& pages_available = Gauge("duo_pages", "Pages of the whole heads", {{"state", "available"}});
  ProcessMetrics process{*registry};

  std::string Text() {
    process.Update();
    return prometheus::TextSerializer().Serialize(registry->Collect());
  }
  static void RaiseTo(prometheus::Counter& counter, double value) {
    if (value > counter.Value()) counter.Increment(value - counter.Value());
  }
};

std::vector<RankKv> RankKvOf(const Engine& engine) {
  const Partition& partition = engine.partition();
  const int d = engine.config().head_dim;
  const int64_t page = kPageTokens * KvTokenBytes(engine.kv_format(), d);
  const int64_t ring = engine.RingBytesPerHead();
  std::vector<RankKv> ranks(partition.world);
  for (int rank = 0; rank < partition.world; ++rank) ranks[rank].retrieval_heads = HeldBy(partition, rank).retrieval();
  for (const std::vector<RankHeads>& layer : partition.layers) {
    for (int rank = 0; rank < partition.world; ++rank) {
      RankKv& kv = ranks[rank];
      kv.page_bytes += static_cast<int64_t>(layer[rank].whole.size()) * page;
      for (const SplitPiece& piece : layer[rank].split) kv.split_page_bytes += (piece.last - piece.first) * page;
      kv.ring_bytes += static_cast<int64_t>(layer[rank].streaming.size()) * ring;
    }
  }
  return ranks;
}

KvInUse InUse(const RankKv& rank, const EngineStats& s) {
  return {(s.pages - s.pages_free) * rank.page_bytes, (s.split_pages - s.split_pages_free) * rank.split_page_bytes,
          (s.rings - s.rings_free) * rank.ring_bytes};
}

Metrics::Metrics() : state_(std::make_unique<State>()) {}
Metrics::~Metrics() = default;

absl::StatusOr<std::unique_ptr<Metrics>> Metrics::Start(const std::string& address, std::vector<RankKv> ranks,
                                                        const Balance& balance, const std::string& commit) {
  std::unique_ptr<Metrics> metrics(new Metrics());
  State& m = *metrics->state_;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const prometheus::Labels labels = {{"rank", std::to_string(rank)}};
    m.Gauge("duo_rank_retrieval_heads", "Retrieval heads of a rank, split ones in parts", labels)
        .Set(ranks[rank].retrieval_heads);
    m.rank_used.push_back(&m.Gauge("duo_rank_kv_bytes", "KV cache in use on a rank", labels));
  }
  constexpr char kBalance[] = "The busiest rank over the mean, by the plan: time of decode attention, KV memory";
  m.Gauge("duo_build_info", "1; what runs here", {{"version", kVersion}, {"commit", commit}}).Set(1);
  m.Gauge("duo_balance_ratio", kBalance, {{"of", "time"}}).Set(balance.time);
  m.Gauge("duo_balance_ratio", kBalance, {{"of", "memory"}}).Set(balance.memory);
  m.ranks = std::move(ranks);
  if (address.empty()) return metrics;
  absl::StatusOr<std::unique_ptr<MetricsPage>> page = MetricsPage::Listen(address, [&m] { return m.Text(); });
  if (!page.ok()) return page.status();
  m.page = std::move(*page);
  return metrics;
}

std::string Metrics::Page() const { return state_->Text(); }

absl::Status Metrics::Check(const std::string& address) {
  if (address.empty()) return absl::OkStatus();
  return MetricsPage::Listen(address, [] { return std::string(); }).status();
}

int Metrics::port() const { return state_->page == nullptr ? 0 : state_->page->port(); }

void Metrics::CountCall(const std::string& method, const std::string& code) {
  state_->calls.Add({{"method", method}, {"code", code}}).Increment();
}
void Metrics::ObserveFirstToken(double seconds) { state_->first_token.Observe(seconds); }
void Metrics::ObserveToken(double seconds) { state_->token.Observe(seconds); }
void Metrics::ObserveQueue(double seconds) { state_->queue.Observe(seconds); }
void Metrics::ObserveAppend(double seconds) { state_->append.Observe(seconds); }
void Metrics::ObserveStep(const EngineStats& counted) {
  const double seconds = counted.last_step_seconds;
  (counted.last_step_prefill ? state_->chunk_step : state_->rows_step).Observe(seconds);
  state_->batch.Observe(counted.last_step_batch);
  if (counted.last_step_answers == 0) return;
  (counted.last_step_prefill ? state_->gap_beside : state_->gap).Observe(seconds);
}

void Metrics::Update(const MetricsSnapshot& s) {
  State& m = *state_;
  State::RaiseTo(m.steps, static_cast<double>(s.engine.steps));
  State::RaiseTo(m.prefill, static_cast<double>(s.engine.prefill_tokens));
  State::RaiseTo(m.decode, static_cast<double>(s.engine.decode_tokens));
  State::RaiseTo(m.busy, s.engine.busy_seconds);
  State::RaiseTo(m.draw_steps, static_cast<double>(s.engine.draw_steps));
  State::RaiseTo(m.accepted, static_cast<double>(s.engine.accepted_tokens));
  State::RaiseTo(m.refused, static_cast<double>(s.engine.drafted_tokens - s.engine.accepted_tokens));
  const DecodeReport& lists = s.engine.decode;
  State::RaiseTo(m.listed, static_cast<double>(lists.listed_tokens));
  State::RaiseTo(m.list_audits, static_cast<double>(lists.audits));
  State::RaiseTo(m.list_mass, lists.mass * static_cast<double>(lists.audits));
  State::RaiseTo(m.checkpoints, static_cast<double>(s.sessions.checkpoints));
  State::RaiseTo(m.saved, static_cast<double>(s.sessions.saved_bytes));
  State::RaiseTo(m.restored, static_cast<double>(s.sessions.restored_bytes));
  const PrefixCounts& prefix = s.engine.prefix;
  State::RaiseTo(m.prefix_queries, static_cast<double>(prefix.queries));
  State::RaiseTo(m.prefix_hits, static_cast<double>(prefix.hits));
  const int64_t restored = s.sessions.moved_out_hit_tokens + s.sessions.saved_hit_tokens;
  State::RaiseTo(m.prefix_open, static_cast<double>(prefix.open_tokens - restored));
  State::RaiseTo(m.prefix_moved_out, static_cast<double>(s.sessions.moved_out_hit_tokens));
  State::RaiseTo(m.prefix_saved_hits, static_cast<double>(s.sessions.saved_hit_tokens));
  State::RaiseTo(m.prefix_read, static_cast<double>(prefix.read_tokens));
  State::RaiseTo(m.prefix_refed, static_cast<double>(prefix.refed_tokens));
  State::RaiseTo(m.prefix_evictions, static_cast<double>(prefix.evictions));
  State::RaiseTo(m.prefix_saved, prefix.saved_seconds);
  m.prefixes.Set(s.engine.prefixes);
  m.prefixes_saved.Set(s.sessions.prefixes_saved);
  m.running.Set(s.engine.running);
  m.waiting.Set(s.engine.waiting);
  m.calls_now.Set(s.sessions.calls);
  m.open.Set(s.sessions.open);
  m.moved_out.Set(s.sessions.moved_out);
  int64_t whole_used = 0, split_used = 0, rings_used = 0;
  for (size_t rank = 0; rank < m.ranks.size(); ++rank) {
    const KvInUse used = InUse(m.ranks[rank], s.engine);
    m.rank_used[rank]->Set(static_cast<double>(used.whole + used.split + used.rings));
    whole_used += used.whole;
    split_used += used.split;
    rings_used += used.rings;
  }
  m.whole_used.Set(static_cast<double>(whole_used));
  m.split_used.Set(static_cast<double>(split_used));
  m.rings_used.Set(static_cast<double>(rings_used));
  int64_t whole_room = 0, split_room = 0, rings_room = 0;
  for (const RankKv& kv : m.ranks) {
    whole_room += s.engine.pages * kv.page_bytes;
    split_room += s.engine.split_pages * kv.split_page_bytes;
    rings_room += s.engine.rings * kv.ring_bytes;
  }
  m.whole_room.Set(static_cast<double>(whole_room));
  m.split_room.Set(static_cast<double>(split_room));
  m.rings_room.Set(static_cast<double>(rings_room));
  m.draining.Set(s.draining ? 1 : 0);
  m.pages_used.Set(static_cast<double>(s.engine.pages - s.engine.pages_free));
  m.pages_promised.Set(static_cast<double>(s.engine.pages_free - s.engine.pages_available));
  m.pages_available.Set(static_cast<double>(s.engine.pages_available));
}

}  // namespace duo
