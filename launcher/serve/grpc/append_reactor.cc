#include "launcher/serve/calls/append_job.h"
#include "launcher/serve/grpc/pieces.h"
#include "launcher/serve/grpc/reactors.h"

namespace duo {
namespace {

AppendPiece FromProto(pb::AppendRequest& r) {
  return {.session_id = r.session_id(),
          .append_id = r.append_id(),
          .special = r.special(),
          .priority = r.priority(),
          .seam = r.seam(),
          .chat = r.chat(),
          .offset = r.offset(),
          .text = std::move(*r.mutable_text()),
          .tokens = {r.tokens().begin(), r.tokens().end()}};
}

void Fill(const AppendUpdate& update, pb::AppendProgress* out) {
  out->Clear();
  out->set_received_bytes(update.received_bytes);
  out->set_tokens(update.tokens);
  out->set_total_tokens(update.total_tokens);
  out->set_seconds_left(update.seconds_left);
  out->set_waiting(update.waiting);
  out->set_done(update.done);
  if (update.session.has_value()) Fill(*update.session, out->mutable_session());
  if (!update.stats.has_value()) return;
  pb::AppendStats* stats = out->mutable_stats();
  stats->set_queue_seconds(update.stats->queue_seconds);
  stats->set_read_seconds(update.stats->read_seconds);
  stats->set_checkpoint_seconds(update.stats->checkpoint_seconds);
  stats->set_checkpoints(update.stats->checkpoints);
}

// Lives until gRPC is done with it, which is after the job's last word.
class AppendReactor final : public grpc::ServerBidiReactor<pb::AppendRequest, pb::AppendProgress> {
 public:
  AppendReactor(MessageGate& gate, CallContext& context, grpc::CallbackServerContext* rpc)
      : rpc_(rpc),
        job_(std::make_shared<AppendJob>(context, Transport())),
        pieces_(gate, context, *rpc, /*idle=*/true) {}

  void Start() { job_->Start(CallerOf(*rpc_)); }
  void OnReadDone(bool ok) override {
    pieces_.Done();
    if (ok) return job_->Take(FromProto(in_));
    if (!rpc_->IsCancelled()) job_->TakeEnd();  // otherwise OnCancel ends the call
  }
  void OnWriteDone(bool ok) override { job_->Written(ok); }
  void OnCancel() override { job_->Cancel(); }
  void OnDone() override { delete this; }

 private:
  CallTransport<AppendUpdate> Transport() {
    return {[this](const AppendUpdate& update) {
              Fill(update, &out_);
              StartWrite(&out_);
            },
            [this](const absl::Status& status) {
              pieces_.Done();
              Finish(ToGrpc(status));
            },
            [this] {
              in_.Clear();
              pieces_.Ask([this] { StartRead(&in_); }, [job = job_](const absl::Status& why) { job->Refuse(why); });
            }};
  }

  grpc::CallbackServerContext* rpc_;
  const std::shared_ptr<AppendJob> job_;
  Pieces pieces_;
  pb::AppendRequest in_;
  pb::AppendProgress out_;
};

}  // namespace

grpc::ServerBidiReactor<pb::AppendRequest, pb::AppendProgress>* StartAppend(MessageGate& gate, CallContext& context,
                                                                            grpc::CallbackServerContext* rpc) {
  auto* reactor = new AppendReactor(gate, context, rpc);
  reactor->Start();
  return reactor;
}

}  // namespace duo
