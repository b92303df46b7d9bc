// One question: its answer is written as it comes; what comes while a write is under way goes with the next.
#include <cmath>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "launcher/serve/grpc/reactors.h"
#include "runtime/text/text_stream.h"

namespace duo {
namespace {

constexpr int kMostStops = 16;
constexpr size_t kLongestStop = 256;
constexpr int64_t kDefaultNewTokens = 128;

class AskCall final : public grpc::ServerWriteReactor<pb::AskResponse> {
 public:
  AskCall(ServiceContext& context, grpc::CallbackServerContext* rpc, const pb::AskRequest* request)
      : c_(context), rpc_(rpc), request_(request) {}

  void Start() {
    begun_ = std::chrono::steady_clock::now();
    GenerateParams params;
    std::vector<int32_t> tokens;
    absl::Status status = c_.Authenticate(*rpc_);
    if (status.ok()) status = Read(&params, &tokens);
    if (!status.ok()) return End(status);
    const bool posted = c_.thread->Post([this, params, tokens = std::move(tokens)]() mutable {
      AskEvents events;
      events.on_token = [this](int32_t token) { return OnToken(token); };
      events.on_done = [this](const RequestResult& result, int64_t history) { OnAnswered(result, history); };
      c_.sessions->Ask(call_, request_->session_id(), std::move(tokens), params, std::move(events));
    });
    if (!posted) End(QueueFull());
  }

  void OnCancel() override {
    c_.thread->Urgent([&c = c_, call = call_] { c.sessions->Cancel(call); });
  }
  void OnDone() override {
    { std::lock_guard lock(mutex_); }  // whoever called Finish still holds it
    delete this;
  }
  void OnWriteDone(bool ok) override {
    std::lock_guard lock(mutex_);
    writing_ = false;
    if (!ok) pending_.Clear();  // nobody reads any more; OnCancel ends the question
    WriteSome();
  }

 private:
  absl::Status Read(GenerateParams* params, std::vector<int32_t>* tokens) {
    const pb::AskRequest& r = *request_;
    if (!r.text().empty() && r.tokens_size() > 0) return absl::InvalidArgumentError("give text or tokens, not both");
    if (r.text().empty() && r.tokens_size() == 0) return absl::InvalidArgumentError("the question has no text");
    params->max_new_tokens = r.max_new_tokens() == 0 ? kDefaultNewTokens : r.max_new_tokens();
    if (params->max_new_tokens < 1 || params->max_new_tokens > c_.limits.new_tokens) {
      return absl::InvalidArgumentError(absl::StrCat("max_new_tokens must be 1 to ", c_.limits.new_tokens,
                                                     " on this server, found ", r.max_new_tokens()));
    }
    params->temperature = r.temperature();
    params->top_p = r.top_p() == 0 ? 1.0f : r.top_p();
    if (!(params->temperature >= 0 && params->temperature <= 100)) {
      return absl::InvalidArgumentError(absl::StrCat("temperature must be 0 to 100, found ", r.temperature()));
    }
    if (!(params->top_p > 0 && params->top_p <= 1)) {
      return absl::InvalidArgumentError(absl::StrCat("top_p must be above 0 and at most 1, found ", r.top_p()));
    }
    if (r.stop_size() > kMostStops) {
      return absl::InvalidArgumentError(absl::StrCat("at most ", kMostStops, " stop texts, found ", r.stop_size()));
    }
    for (const std::string& stop : r.stop()) {
      if (stop.empty() || stop.size() > kLongestStop) {
        return absl::InvalidArgumentError(
            absl::StrCat("a stop text has 1 to ", kLongestStop, " bytes, found ", stop.size()));
      }
    }
    params->seed = r.seed();
    params->keep = r.keep();
    if (!r.ignore_end_tokens()) params->end_tokens = c_.end_tokens;
    if (r.tokens_size() > 0) {
      tokens->assign(r.tokens().begin(), r.tokens().end());
      if (absl::Status s = CheckTokens(c_, *tokens); !s.ok()) return s;
    } else {
      *tokens =
          c_.tokenizer->Encode(r.text(), EncodeOptions{.parse_special = r.special(), .add_special_tokens = false});
    }
    stream_ = std::make_unique<TextStream>(*c_.tokenizer, std::vector<std::string>(r.stop().begin(), r.stop().end()));
    return absl::OkStatus();
  }

  // Engine's thread.
  bool OnToken(int32_t token) {
    if (drawn_.empty()) first_token_ = Seconds();
    drawn_.push_back(token);
    std::lock_guard lock(mutex_);
    pending_.mutable_text()->append(stream_->Push(token));
    AddTokens();
    WriteSome();
    return !stream_->stopped();
  }
  void OnAnswered(const RequestResult& result, int64_t history) {
    std::lock_guard lock(mutex_);
    final_ = result.status;
    if (result.status.ok()) {
      pending_.mutable_text()->append(stream_->Flush());
      AddTokens();
      pending_.set_done(true);
      pending_.set_finish(stream_->stopped() ? "stop" : Name(result.finish));
      pb::AskStats* stats = pending_.mutable_stats();
      stats->set_history_tokens(history);
      stats->set_prompt_tokens(result.prompt_tokens);
      stats->set_new_tokens(sent_);
      stats->set_queue_seconds(result.queue_seconds);
      stats->set_prefill_seconds(result.prefill_seconds);
      stats->set_first_token_seconds(first_token_);
      stats->set_decode_seconds(result.decode_seconds);
      c_.metrics->ObserveQueue(result.queue_seconds);
      if (!drawn_.empty()) c_.metrics->ObserveFirstToken(first_token_);
      if (drawn_.size() > 1) c_.metrics->ObserveToken(result.decode_seconds / (drawn_.size() - 1));
    } else {
      pending_.Clear();
    }
    answered_ = true;
    c_.Count("Ask", result.status);
    WriteSome();
  }

  // Holding mutex_.
  void AddTokens() {
    const int64_t certain = stream_->tokens();
    for (; sent_ < certain; ++sent_) pending_.add_tokens(drawn_[sent_]);
  }
  void WriteSome() {
    if (writing_ || finished_) return;
    const bool something = !pending_.text().empty() || pending_.tokens_size() > 0 || pending_.done();
    if (something && !(answered_ && rpc_->IsCancelled())) {
      out_.Swap(&pending_);
      pending_.Clear();
      writing_ = true;
      StartWrite(&out_);
    } else if (answered_) {
      finished_ = true;
      Finish(ToGrpc(final_));
    }
  }
  void End(const absl::Status& status) {
    c_.Count("Ask", status);
    Finish(ToGrpc(status));
  }
  double Seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun_).count(); }

  ServiceContext& c_;
  grpc::CallbackServerContext* rpc_;
  const pb::AskRequest* request_;
  const CallPtr call_ = std::make_shared<Call>();
  std::chrono::steady_clock::time_point begun_;
  double first_token_ = 0;
  std::vector<int32_t> drawn_;

  std::mutex mutex_;  // guards what follows
  std::unique_ptr<TextStream> stream_;
  pb::AskResponse pending_, out_;
  int64_t sent_ = 0;
  bool writing_ = false, answered_ = false, finished_ = false;
  absl::Status final_;
};

}  // namespace

grpc::ServerWriteReactor<pb::AskResponse>* StartAsk(ServiceContext& context, grpc::CallbackServerContext* rpc,
                                                    const pb::AskRequest* request) {
  auto* call = new AskCall(context, rpc, request);
  call->Start();
  return call;
}

}  // namespace duo
