#include "launcher/serve/grpc/reactors.h"
#include "runtime/engine/memory_plan.h"

namespace duo {
namespace {

class ClusterService final : public pb::Cluster::CallbackService {
 public:
  explicit ClusterService(ServiceContext& context) : c_(context) {}

  grpc::ServerUnaryReactor* Plan(grpc::CallbackServerContext* rpc, const pb::PlanRequest*,
                                 pb::PlanResponse* r) override {
    auto* unary = new Unary(c_, rpc, "Plan");
    return unary->Run([this, unary, r] {
      const Engine& engine = *c_.engine;
      const HeadPlan& heads = engine.heads();
      const Partition& partition = engine.partition();
      r->set_model(c_.model);
      r->set_device(c_.device);
      r->set_kv_format(Name(engine.kv_format()));
      r->set_world(partition.world);
      r->set_layers(heads.layers);
      r->set_kv_heads(heads.kv_heads);
      r->set_retrieval_heads(heads.retrieval_heads());
      r->set_streaming_heads(heads.streaming_heads());
      r->set_sink(heads.sink);
      r->set_recent(heads.recent);
      r->set_strategy(Name(partition.strategy));
      r->set_balance_time(partition.balance.time);
      r->set_balance_memory(partition.balance.memory);
      r->set_memory(Describe(engine.memory_plan()));
      r->set_max_session_tokens(c_.sessions->options().max_session_tokens);
      r->set_kv_tokens(engine.memory_plan().kv_tokens);
      for (int rank = 0; rank < partition.world; ++rank) {
        pb::RankHeads* held = r->add_ranks();
        held->set_rank(rank);
        for (const std::vector<RankHeads>& layer : partition.layers) {
          held->set_whole(held->whole() + static_cast<int>(layer[rank].whole.size()));
          held->set_streaming(held->streaming() + static_cast<int>(layer[rank].streaming.size()));
          held->set_split(held->split() + RetrievalLoad(layer[rank]) - static_cast<double>(layer[rank].whole.size()));
        }
      }
      unary->End(absl::OkStatus());
    });
  }

  grpc::ServerUnaryReactor* Stats(grpc::CallbackServerContext* rpc, const pb::StatsRequest*,
                                  pb::StatsResponse* r) override {
    auto* unary = new Unary(c_, rpc, "Stats");
    return unary->Run([this, unary, r] {
      const EngineStats e = c_.engine->stats();
      const SessionsStats s = c_.sessions->stats();
      r->set_uptime_seconds(std::chrono::duration<double>(std::chrono::steady_clock::now() - c_.start).count());
      r->set_draining(c_.sessions->draining());
      r->set_steps(e.steps);
      r->set_prefill_tokens(e.prefill_tokens);
      r->set_decode_tokens(e.decode_tokens);
      r->set_busy_seconds(e.busy_seconds);
      r->set_pages(e.pages);
      r->set_pages_free(e.pages_free);
      r->set_pages_available(e.pages_available);
      r->set_split_pages(e.split_pages);
      r->set_split_pages_free(e.split_pages_free);
      r->set_rings(e.rings);
      r->set_rings_free(e.rings_free);
      r->set_sessions_open(s.open);
      r->set_sessions_moved_out(s.moved_out);
      r->set_requests_running(e.running);
      r->set_requests_waiting(e.waiting);
      r->set_calls(c_.calls);
      r->set_calls_refused(c_.refused);
      r->set_checkpoints(s.checkpoints);
      r->set_saved_bytes(s.saved_bytes);
      r->set_restored_bytes(s.restored_bytes);
      r->set_longest_wait_seconds(s.longest_wait);
      unary->End(absl::OkStatus());
    });
  }

  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* rpc, const pb::DrainRequest* request,
                                  pb::DrainResponse* r) override {
    auto* unary = new Unary(c_, rpc, "Drain");
    return unary->Run([this, unary, request, r] {
      if (!(request->grace_seconds() >= 0 && request->grace_seconds() <= 86400)) {
        return unary->End(absl::InvalidArgumentError("grace_seconds must be 0 to 86400"));
      }
      c_.drain(request->grace_seconds(), [unary, r](const DrainResult& result) {
        r->set_saved(result.saved);
        r->set_cancelled(result.cancelled);
        r->set_seconds(result.seconds);
        unary->End(absl::OkStatus());
      });
    });
  }

 private:
  ServiceContext& c_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeClusterService(ServiceContext& context) {
  return std::make_unique<ClusterService>(context);
}

}  // namespace duo
