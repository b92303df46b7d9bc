#include "launcher/serve/calls/cluster_calls.h"

#include <utility>

#include "kernels/base/seconds.h"
#include "parallel/prefill_split.h"
#include "runtime/engine/memory_plan.h"

namespace duo {
ClusterPlan PlanOf(const CallContext& context) {
  const Engine& engine = *context.engine;
  const HeadPlan& heads = engine.heads();
  const Partition& partition = engine.partition();
  ClusterPlan plan;
  plan.model = context.model;
  plan.device = context.device;
  plan.kv_format = Name(engine.kv_format());
  plan.weight_formats = engine.weight_formats();
  plan.strategy = Name(partition.strategy);
  plan.world = partition.world;
  plan.layers = heads.layers;
  plan.kv_heads = heads.kv_heads;
  plan.retrieval_heads = heads.retrieval_heads();
  plan.streaming_heads = heads.streaming_heads();
  plan.sink = heads.sink;
  plan.recent = heads.recent;
  plan.balance_time = partition.balance.time;
  plan.balance_memory = partition.balance.memory;
  plan.memory = Describe(engine.memory_plan());
  plan.max_session_tokens = context.sessions->options().max_session_tokens;
  plan.kv_tokens = engine.memory_plan().kv_tokens;
  for (int rank = 0; rank < partition.world; ++rank) plan.ranks.push_back(HeldBy(partition, rank));
  if (partition.world > 1) {
    plan.prefill_split = Name(engine.memory_plan().peer_shards > 0 ? PrefillSplit::kRows : PrefillSplit::kHeads);
  }
  if (engine.config().experts.count > 0 && partition.world > 1) {
    plan.experts = Name(partition.whole_experts ? ExpertPlacement::kWhole : ExpertPlacement::kSplit);
  }
  return plan;
}

ClusterStats StatsOf(const CallContext& context) {
  ClusterStats stats;
  stats.uptime_seconds = SecondsSince(context.start);
  stats.draining = context.sessions->draining();
  stats.calls = context.calls;
  stats.refused = context.refused;
  stats.engine = context.engine->stats();
  stats.sessions = context.sessions->stats();
  return stats;
}

UnaryCallPtr StartPlan(CallContext& context, const Caller& caller, Answered<ClusterPlan> finish) {
  return StartUnary(context, caller, "Plan", Right::kNumbers, std::move(finish),
                    [&context](const auto&, const auto& done) { done(PlanOf(context)); });
}

UnaryCallPtr StartStats(CallContext& context, const Caller& caller, Answered<ClusterStats> finish) {
  return StartUnary(context, caller, "Stats", Right::kNumbers, std::move(finish),
                    [&context](const auto&, const auto& done) { done(StatsOf(context)); });
}

UnaryCallPtr StartDrain(CallContext& context, const Caller& caller, DrainRequest request,
                        Answered<DrainResult> finish) {
  return StartUnary(context, caller, "Drain", Right::kServer, std::move(finish),
                    [&context, request](const auto&, const auto& done) {
                      if (!(request.grace_seconds >= 0 && request.grace_seconds <= 86400)) {
                        return done(absl::InvalidArgumentError("grace_seconds must be 0 to 86400"));
                      }
                      context.drain(request.grace_seconds, [done](const DrainResult& result) {
                        if (result.status.ok()) return done(result);
                        done(result.status);
                      });
                    });
}

}  // namespace duo
