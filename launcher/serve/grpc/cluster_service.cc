#include "launcher/serve/calls/cluster_calls.h"
#include "launcher/serve/grpc/reactors.h"
#include "launcher/serve/grpc/services.h"

namespace duo {
// Found by the template of the reactors when it is instantiated, so not in the unnamed namespace.
static void Fill(const ClusterPlan& plan, pb::PlanResponse* out) {
  out->set_model(plan.model);
  out->set_device(plan.device);
  out->set_kv_format(plan.kv_format);
  out->set_world(plan.world);
  out->set_layers(plan.layers);
  out->set_kv_heads(plan.kv_heads);
  out->set_retrieval_heads(plan.retrieval_heads);
  out->set_streaming_heads(plan.streaming_heads);
  out->set_sink(plan.sink);
  out->set_recent(plan.recent);
  out->set_strategy(plan.strategy);
  out->set_balance_time(plan.balance_time);
  out->set_balance_memory(plan.balance_memory);
  out->set_memory(plan.memory);
  out->set_max_session_tokens(plan.max_session_tokens);
  out->set_kv_tokens(plan.kv_tokens);
  out->set_experts(plan.experts);
  out->set_prefill_split(plan.prefill_split);
  for (const FormatShare& one : plan.weight_formats) {
    pb::WeightFormat* format = out->add_weight_formats();
    format->set_format(one.format);
    format->set_parameters(one.parameters);
    format->set_share(one.share);
  }
  for (int rank = 0; rank < plan.world; ++rank) {
    pb::RankHeads* held = out->add_ranks();
    held->set_rank(rank);
    held->set_whole(plan.ranks[rank].whole);
    held->set_split(plan.ranks[rank].split);
    held->set_streaming(plan.ranks[rank].streaming);
  }
}

void Fill(const DecodeReport& written, pb::SparseWriting* out) {
  out->set_setting(written.setting);
  out->set_listed_tokens(written.listed_tokens);
  out->set_choices(written.choices);
  out->set_audits(written.audits);
  out->set_mass(written.mass);
  out->set_least_mass(written.least_mass);
  out->set_least_layer(written.least_layer);
  out->set_least_head(written.least_head);
  out->set_density(written.density);
}

static void Fill(const ClusterStats& stats, pb::StatsResponse* out) {
  const EngineStats& e = stats.engine;
  const SessionsStats& s = stats.sessions;
  out->set_uptime_seconds(stats.uptime_seconds);
  out->set_draining(stats.draining);
  out->set_steps(e.steps);
  out->set_prefill_tokens(e.prefill_tokens);
  out->set_decode_tokens(e.decode_tokens);
  out->set_busy_seconds(e.busy_seconds);
  out->set_pages(e.pages);
  out->set_pages_free(e.pages_free);
  out->set_pages_available(e.pages_available);
  out->set_split_pages(e.split_pages);
  out->set_split_pages_free(e.split_pages_free);
  out->set_rings(e.rings);
  out->set_rings_free(e.rings_free);
  out->set_sessions_open(s.open);
  out->set_sessions_moved_out(s.moved_out);
  out->set_requests_running(e.running);
  out->set_requests_waiting(e.waiting);
  out->set_calls(stats.calls);
  out->set_calls_refused(stats.refused);
  out->set_checkpoints(s.checkpoints);
  out->set_saved_bytes(s.saved_bytes);
  out->set_restored_bytes(s.restored_bytes);
  out->set_longest_wait_seconds(s.longest_wait);
  out->set_draw_steps(e.draw_steps);
  out->set_drafted_tokens(e.drafted_tokens);
  out->set_accepted_tokens(e.accepted_tokens);
  if (e.decode.sparse()) Fill(e.decode, out->mutable_sparse());
}

static void Fill(const DrainResult& result, pb::DrainResponse* out) {
  out->set_saved(result.saved);
  out->set_cancelled(result.cancelled);
  out->set_seconds(result.seconds);
  for (const SessionView& dropped : result.dropped) Fill(dropped, out->add_dropped());
}

namespace {

class ClusterService final : public CallsService {
 public:
  explicit ClusterService(Behind& behind) : CallsService(behind, "duo.v1.Cluster") {
    AddUnary<ClusterPlan, pb::PlanRequest, pb::PlanResponse>(
        "Plan", [](CallContext& c, const Caller& caller, const pb::PlanRequest&, Answered<ClusterPlan> finish) {
          return StartPlan(c, caller, std::move(finish));
        });
    AddUnary<ClusterStats, pb::StatsRequest, pb::StatsResponse>(
        "Stats", [](CallContext& c, const Caller& caller, const pb::StatsRequest&, Answered<ClusterStats> finish) {
          return StartStats(c, caller, std::move(finish));
        });
    AddUnary<DrainResult, pb::DrainRequest, pb::DrainResponse>(
        "Drain", [](CallContext& c, const Caller& caller, const pb::DrainRequest& r, Answered<DrainResult> finish) {
          return StartDrain(c, caller, {r.grace_seconds()}, std::move(finish));
        });
  }
};

}  // namespace

std::unique_ptr<grpc::Service> MakeClusterService(Behind& behind) { return std::make_unique<ClusterService>(behind); }

}  // namespace duo
