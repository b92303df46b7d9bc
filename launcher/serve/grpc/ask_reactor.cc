#include "launcher/serve/calls/ask_job.h"
#include "launcher/serve/grpc/reactors.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

// What is absent stays as it is where nothing is asked for.
SamplingRules RulesFromProto(const pb::AskRequest& r) {
  SamplingRules rules;
  if (r.has_top_k()) rules.top_k = r.top_k();
  if (r.has_min_p()) rules.min_p = r.min_p();
  if (r.has_presence_penalty()) rules.presence_penalty = r.presence_penalty();
  if (r.has_frequency_penalty()) rules.frequency_penalty = r.frequency_penalty();
  if (r.has_repetition_penalty()) rules.repetition_penalty = r.repetition_penalty();
  for (const pb::TokenBias& b : r.logit_bias()) rules.logit_bias.push_back({b.token(), b.bias()});
  rules.stop_tokens = {r.stop_tokens().begin(), r.stop_tokens().end()};
  if (r.has_min_new_tokens()) rules.min_new_tokens = r.min_new_tokens();
  if (r.has_logprobs()) rules.scores = r.logprobs();
  if (r.has_prompt_logprobs()) rules.prompt_scores = r.prompt_logprobs();
  return rules;
}

Guide GuideFromProto(const pb::AskRequest& r) {
  switch (r.guide_case()) {
    case pb::AskRequest::kJsonObject:
      return r.json_object() ? Guide{Guide::Kind::kJsonObject, ""} : Guide{};
    case pb::AskRequest::kJsonSchema:
      return {Guide::Kind::kJsonSchema, r.json_schema()};
    case pb::AskRequest::kRegex:
      return {Guide::Kind::kRegex, r.regex()};
    case pb::AskRequest::kGrammar:
      return {Guide::Kind::kGrammar, r.grammar()};
    case pb::AskRequest::GUIDE_NOT_SET:
      return {};
  }
  return {};
}

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
          .seam = r.seam(),
          .ignore_end_tokens = r.ignore_end_tokens(),
          .rules = RulesFromProto(r),
          .guide = GuideFromProto(r),
          .sources = r.sources(),
          .token_sources = r.token_sources(),
          .priority = r.priority()};
}

void Fill(const TokenLogprob& token, pb::TokenLogprob* out) {
  out->set_token(token.token);
  out->set_logprob(token.logprob);
}
void Fill(const std::vector<TokenScore>& scores, google::protobuf::RepeatedPtrField<pb::TokenScore>* out) {
  for (const TokenScore& score : scores) {
    pb::TokenScore* one = out->Add();
    Fill(score.chosen, one->mutable_chosen());
    for (const TokenLogprob& best : score.best) Fill(best, one->add_best());
  }
}

void Fill(const std::vector<Source>& sources, google::protobuf::RepeatedPtrField<pb::Source>* out) {
  for (const Source& source : sources) {
    pb::Source* one = out->Add();
    one->set_start(source.begin);
    one->set_end(source.end);
    one->set_score(source.score);
    one->set_text(ReplaceInvalidUtf8(source.text));
    one->set_line(source.line);
  }
}

void Fill(const AskUpdate& update, pb::AskResponse* out) {
  out->Clear();
  out->set_text(update.text);
  out->mutable_tokens()->Add(update.tokens.begin(), update.tokens.end());
  Fill(update.scores, out->mutable_scores());
  Fill(update.prompt_scores, out->mutable_prompt_scores());
  if (!update.done) return;
  out->set_done(true);
  out->set_finish(update.finish);
  Fill(update.sources, out->mutable_provenance());
  for (const std::vector<Source>& of_token : update.token_sources) {
    Fill(of_token, out->add_token_provenance()->mutable_sources());
  }
  pb::AskStats* stats = out->mutable_stats();
  stats->set_history_tokens(update.stats.history_tokens);
  stats->set_prompt_tokens(update.stats.prompt_tokens);
  stats->set_new_tokens(update.stats.new_tokens);
  stats->set_queue_seconds(update.stats.queue_seconds);
  stats->set_prefill_seconds(update.stats.prefill_seconds);
  stats->set_first_token_seconds(update.stats.first_token_seconds);
  stats->set_decode_seconds(update.stats.decode_seconds);
  stats->set_draw_steps(update.stats.draw_steps);
  stats->set_drafted_tokens(update.stats.drafted_tokens);
  stats->set_accepted_tokens(update.stats.accepted_tokens);
  if (update.stats.decode.sparse()) Fill(update.stats.decode, stats->mutable_sparse());
}

class AskReactor final : public CallReactor<pb::AskRequest, pb::AskResponse> {
 public:
  AskReactor(MessageGate& gate, CallContext& context, const Caller& caller)
      : CallReactor(gate, context, "Ask", caller),
        job_(std::make_shared<AskJob>(
            context, CallTransport<AskUpdate>{[this](const AskUpdate& update) {
                                                Fill(update, &out_);
                                                StartWrite(&out_);
                                              },
                                              [this](const absl::Status& status) { Finish(ToGrpc(status)); }})) {}

  void OnWriteDone(bool ok) override { job_->Written(ok); }

 private:
  void OnMessage(const pb::AskRequest& request) override { job_->Start(caller_, FromProto(request)); }
  void OnGone() override { job_->Cancel(); }

  const std::shared_ptr<AskJob> job_;
  pb::AskResponse out_;
};

}  // namespace

OneMessage<pb::AskRequest, pb::AskResponse>* MakeAsk(MessageGate& gate, CallContext& context, const Caller& caller) {
  return new AskReactor(gate, context, caller);
}

}  // namespace duo
