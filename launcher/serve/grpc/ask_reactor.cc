#include "launcher/serve/calls/ask_job.h"
#include "launcher/serve/grpc/reactors.h"

namespace duo {
namespace {

AskRequest FromProto(const pb::AskRequest& r) {
  return {.session_id = r.session_id(),
          .text = r.text(),
          .tokens = {r.tokens().begin(), r.tokens().end()},
          .max_new_tokens = r.max_new_tokens(),
          .temperature = r.temperature(),
          .top_p = r.top_p(),
          .seed = r.seed(),
          .stop = {r.stop().begin(), r.stop().end()},
          .keep = r.keep(),
          .special = r.special(),
          .ignore_end_tokens = r.ignore_end_tokens()};
}

void Fill(const AskUpdate& update, pb::AskResponse* out) {
  out->Clear();
  out->set_text(update.text);
  out->mutable_tokens()->Add(update.tokens.begin(), update.tokens.end());
  if (!update.done) return;
  out->set_done(true);
  out->set_finish(update.finish);
  pb::AskStats* stats = out->mutable_stats();
  stats->set_history_tokens(update.stats.history_tokens);
  stats->set_prompt_tokens(update.stats.prompt_tokens);
  stats->set_new_tokens(update.stats.new_tokens);
  stats->set_queue_seconds(update.stats.queue_seconds);
  stats->set_prefill_seconds(update.stats.prefill_seconds);
  stats->set_first_token_seconds(update.stats.first_token_seconds);
  stats->set_decode_seconds(update.stats.decode_seconds);
}

// Lives until gRPC is done with it, which is after the job's last word.
class AskReactor final : public grpc::ServerWriteReactor<pb::AskResponse> {
 public:
  explicit AskReactor(CallContext& context)
      : job_(std::make_shared<AskJob>(
            context, CallTransport<AskUpdate>{[this](const AskUpdate& update) {
                                                Fill(update, &out_);
                                                StartWrite(&out_);
                                              },
                                              [this](const absl::Status& status) { Finish(ToGrpc(status)); }})) {}

  void Start(const Caller& caller, const AskRequest& request) { job_->Start(caller, request); }
  void OnWriteDone(bool ok) override { job_->Written(ok); }
  void OnCancel() override { job_->Cancel(); }
  void OnDone() override { delete this; }

 private:
  const std::shared_ptr<AskJob> job_;
  pb::AskResponse out_;
};

}  // namespace

grpc::ServerWriteReactor<pb::AskResponse>* StartAsk(CallContext& context, grpc::CallbackServerContext* rpc,
                                                    const pb::AskRequest* request) {
  auto* reactor = new AskReactor(context);
  reactor->Start(CallerOf(*rpc), FromProto(*request));
  return reactor;
}

}  // namespace duo
