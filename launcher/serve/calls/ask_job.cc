#include "launcher/serve/calls/ask_job.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/base/seconds.h"
#include "launcher/serve/calls/call_span.h"

namespace duo {
namespace {

constexpr int kMostStops = 16;
constexpr size_t kLongestStop = 256;
constexpr int64_t kDefaultNewTokens = 128;
constexpr int32_t kMostSources = 1000;

absl::Status CheckSources(const AskRequest& r, bool known) {
  if (r.sources < 0 || r.sources > kMostSources) {
    return absl::InvalidArgumentError(absl::StrCat("sources must be 0 to ", kMostSources, ", found ", r.sources));
  }
  if (r.token_sources && r.sources == 0) return absl::InvalidArgumentError("token_sources needs sources");
  if (r.sources == 0) return absl::OkStatus();
  if (r.alone) return absl::InvalidArgumentError("sources are named of a session's text, and this prompt has none");
  if (!known) return absl::FailedPreconditionError("this server does not read where answers looked (--sources)");
  return absl::OkStatus();
}

absl::Status CheckSampling(const GenerateParams& params, const AskRequest& request) {
  if (!(params.temperature >= 0 && params.temperature <= 100)) {
    return absl::InvalidArgumentError(absl::StrCat("temperature must be 0 to 100, found ", request.temperature));
  }
  if (!(params.top_p > 0 && params.top_p <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("top_p must be above 0 and at most 1, found ", request.top_p));
  }
  return absl::OkStatus();
}

absl::Status CheckStops(const std::vector<std::string>& stops) {
  if (stops.size() > kMostStops) {
    return absl::InvalidArgumentError(absl::StrCat("at most ", kMostStops, " stop texts, found ", stops.size()));
  }
  for (const std::string& stop : stops) {
    if (!stop.empty() && stop.size() <= kLongestStop) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("a stop text has 1 to ", kLongestStop, " bytes, found ", stop.size()));
  }
  return absl::OkStatus();
}

}  // namespace

AskJob::AskJob(CallContext& context, std::vector<CallTransport<AskUpdate>> transports) : c_(context) {
  for (CallTransport<AskUpdate>& transport : transports) {
    answers_.push_back(std::make_unique<AskAnswer>(std::move(transport)));
  }
}

void AskJob::Start(const Caller& caller, const AskRequest& request) {
  begun_ = std::chrono::steady_clock::now();
  caller_ = {"", caller.request_id, caller.trace};
  absl::StatusOr<Identity> who = c_.Authenticate(caller, Right::kSessions);
  if (!who.ok()) return End(who.status());
  who_ = *who;
  session_ = request.session_id;
  cache_key_ = request.cache_key;
  activity_ = c_.activity.Begin("Ask", request.session_id, who_.owner);
  const bool posted =
      c_.workers->Post(request.text.size(), [self = shared_from_this(), request] { self->Begin(request); });
  if (!posted) End(QueueFull());
}

// On a worker's thread.
void AskJob::Begin(const AskRequest& request) {
  GenerateParams params;
  QuestionInput question;
  if (absl::Status s = Read(request, &params, &question); !s.ok()) return End(s);
  params.whose = c_.WhoseOf(who_, request.priority);
  if (request.guide.kind == Guide::Kind::kNone) return Post(request, params, std::move(question), std::nullopt);
  c_.guides->Compile(request.guide, [self = shared_from_this(), request, params,
                                     question = std::move(question)](const absl::StatusOr<CompiledGuide>& guide) {
    if (!guide.ok()) return self->End(guide.status());
    self->Post(request, params, question, *guide);
  });
}

void AskJob::Post(const AskRequest& request, const GenerateParams& params, QuestionInput question,
                  std::optional<CompiledGuide> guide) {
  const bool posted = c_.thread->Post([self = shared_from_this(), request, params = params,
                                       question = std::move(question), guide = std::move(guide)]() mutable {
    self->Ask(request, std::move(params), std::move(question), guide.has_value() ? &*guide : nullptr);
  });
  if (!posted) End(QueueFull());
}

// On the engine's thread, as only there it is known whether the session is a conversation.
void AskJob::Ask(const AskRequest& request, GenerateParams params, QuestionInput question, const CompiledGuide* guide) {
  Sessions& sessions = *c_.sessions;
  const absl::Status owned = request.alone ? absl::OkStatus() : c_.CheckOwner(who_, request.session_id);
  if (!owned.ok()) return End(owned);
  if (!request.alone && !request.ignore_end_tokens && sessions.IsChat(request.session_id)) {
    params.end_tokens.insert(params.end_tokens.end(), c_.end_of_turn.begin(), c_.end_of_turn.end());
  }
  std::vector<int32_t> ends = params.end_tokens;
  ends.insert(ends.end(), request.rules.stop_tokens.begin(), request.rules.stop_tokens.end());
  std::vector<AskEvents> events;
  for (size_t i = 0; i < answers_.size(); ++i) {
    auto matcher = guide == nullptr ? nullptr : std::make_unique<GrammarMatcher>(guide->grammar, guide->tokens);
    answers_[i]->Expect(std::make_unique<TextStream>(*c_.tokenizer, request.stop), std::move(matcher), ends);
    events.push_back(Events(i, request));
  }
  if (request.alone) params.prefix = sessions.PrefixOf(who_.owner, request.cache_salt);
  if (request.alone) return sessions.AskAlone(call_, std::move(question.tokens), params, events);
  sessions.AskText(call_, request.session_id, std::move(question), params, std::move(events[0]));
}

AskEvents AskJob::Events(size_t i, const AskRequest& request) {
  AskAnswer* answer = answers_[i].get();
  AskEvents events;
  const auto self = shared_from_this();  // keeps the answer
  events.on_token = [self, answer](int32_t token) {
    const bool go_on = answer->OnToken(token, self->Seconds());
    if (answer->due()) self->c_.Send([self, answer] { answer->Send(); });
    return go_on;
  };
  if (request.guide.kind != Guide::Kind::kNone) {
    events.allow = [self, answer](std::vector<uint32_t>* mask) { return answer->Allow(mask); };
  }
  if (request.waits_for_reader) events.pause = [self, answer] { return answer->Unread(); };
  if (request.sources > 0) {
    answer->ExpectSources(c_.tokenizer, {request.sources, c_.sources.sink, 0}, request.token_sources);
    events.on_mass = [self, answer](const RowMass& mass) { answer->OnMass(mass); };
    events.on_sent = [self, answer](std::shared_ptr<const SentSession> sent) { answer->OnSent(std::move(sent)); };
  }
  if (request.keep) events.said = [self, answer] { return answer->Said(); };
  events.on_start = [self, answer](const CachedText& cached) { answer->OnStart(cached); };
  events.on_score = [self, answer](const TokenScore& score) { answer->OnScore(score); };
  events.on_prompt_score = [self, answer](const TokenScore& score) { answer->OnPromptScore(score); };
  events.on_done = [self, i](const RequestResult& result, int64_t history) { self->OnDone(i, result, history); };
  return events;
}

void AskJob::Cancel() {
  for (const auto& answer : answers_) answer->Gone();
  c_.thread->Urgent([self = shared_from_this()] { self->c_.sessions->Cancel(self->call_); });
}

void AskJob::Written(bool ok, size_t answer) {
  if (answers_[answer]->Written(ok)) c_.thread->Urgent([] {});
}

absl::Status AskJob::Read(const AskRequest& r, GenerateParams* params, QuestionInput* question) {
  if (!r.text.empty() && !r.tokens.empty()) return absl::InvalidArgumentError("give text or tokens, not both");
  if (r.text.empty() && r.tokens.empty()) return absl::InvalidArgumentError("the question has no text");
  const bool only_scores = r.max_new_tokens == -1 && r.rules.prompt_scores >= 0;
  params->max_new_tokens = only_scores ? 0 : r.max_new_tokens == 0 ? kDefaultNewTokens : r.max_new_tokens;
  if (params->max_new_tokens < (only_scores ? 0 : 1) || params->max_new_tokens > c_.limits.new_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("max_new_tokens must be 1 to ", c_.limits.new_tokens,
                                                   " on this server, found ", r.max_new_tokens));
  }
  if (absl::Status s = CallContext::CheckPriority(r.priority); !s.ok()) return s;
  params->temperature = r.temperature;
  params->top_p = r.top_p == 0 ? 1.0f : r.top_p;
  if (absl::Status s = CheckSampling(*params, r); !s.ok()) return s;
  if (absl::Status s = CheckRules(r.rules, c_.vocab); !s.ok()) return s;
  params->rules = r.rules;
  if (absl::Status s = CheckSources(r, c_.sources.known); !s.ok()) return s;
  params->mass = r.sources > 0;
  if (absl::Status s = CheckStops(r.stop); !s.ok()) return s;
  params->seed = r.seed;
  params->keep = r.keep;
  if (!r.ignore_end_tokens) params->end_tokens = c_.end_tokens;
  params->end_tokens.insert(params->end_tokens.end(), r.end_tokens.begin(), r.end_tokens.end());
  if (absl::Status s = c_.CheckTokens(r.tokens); !s.ok()) return s;
  *question = {r.tokens, r.text, r.special, r.seam, r.turn, r.fits};
  if (r.alone && !r.text.empty()) {
    absl::StatusOr<std::vector<int32_t>> read = c_.Encode(r.text, r.special);
    if (!read.ok()) return read.status();
    question->tokens = *std::move(read);
  }
  return absl::OkStatus();
}

// Sources take a while of a long text: they are found on a worker's thread.
void AskJob::OnDone(size_t i, const RequestResult& result, int64_t history) {
  AskAnswer& answer = *answers_[i];
  if (!result.status.ok() || !answer.wants_sources()) return Ended(i, result, history);
  const bool posted = c_.workers->Post(answer.sent_bytes(), [self = shared_from_this(), i, result, history] {
    self->answers_[i]->FindSources();
    if (!self->c_.thread->Urgent([self, i, result, history] { self->Ended(i, result, history); })) {
      self->Ended(i, result, history);
    }
  });
  if (posted) return;
  answer.FindSources();
  Ended(i, result, history);
}

void AskJob::Ended(size_t i, const RequestResult& result, int64_t history) {
  AskAnswer& answer = *answers_[i];
  const absl::Status status = answer.OnDone(result, history);
  if (status.ok()) {
    c_.metrics->ObserveQueue(result.queue_seconds);
    const double gap = answer.drawn() > 1 ? result.decode_seconds / static_cast<double>(answer.drawn() - 1) : 0;
    if (answer.drawn() > 0) {
      c_.metrics->ObserveFirstToken(answer.first_token_seconds());
      c_.activity.Answered({answer.first_token_seconds(), gap});
    }
    if (gap > 0) c_.metrics->ObserveToken(gap);
    if (!answer.looked().empty()) c_.activity.Looked(answer.looked());
    LogAnswer(answer, result, history);
    Trace(answer, result, history);
  } else {
    SendSpan(c_, {"Ask", caller_, who_.owner, session_, begun_}, status);
  }
  if (failed_.ok()) failed_ = status;
  if (++ended_ == answers_.size()) {
    c_.activity.End(activity_);
    c_.Count("Ask", failed_, who_.owner, caller_);
  }
  answer.Close(status);
}

// A line for each question that was answered: whose, how much, how long.
void AskJob::LogAnswer(const AskAnswer& answer, const RequestResult& result, int64_t history) const {
  c_.log->Event("answered", {{"session", session_},
                             {"owner", who_.owner},
                             {"request", caller_.request_id},
                             {"trace", caller_.trace},
                             {"prompt_cache_key", cache_key_},
                             {"history_tokens", history},
                             {"prompt_tokens", result.prompt_tokens},
                             {"new_tokens", answer.sent()},
                             {"finish", answer.finish()},
                             {"queue_seconds", result.queue_seconds},
                             {"first_token_seconds", answer.first_token_seconds()},
                             {"seconds", Seconds()}});
}

void AskJob::Trace(const AskAnswer& answer, const RequestResult& result, int64_t history) const {
  std::vector<SpanPart> parts = {{"queue", 0, 0}, {"read", 0, result.prefill_seconds}};
  if (answer.drawn() > 0) parts.push_back({"decode", 0, result.decode_seconds});
  SendSpan(c_, {"Ask", caller_, who_.owner, session_, begun_}, absl::OkStatus(), std::move(parts),
           {{"gen_ai.usage.input_tokens", history + result.prompt_tokens},
            {"gen_ai.usage.output_tokens", answer.sent()},
            {"duo.history_tokens", history},
            {"duo.first_token_seconds", answer.first_token_seconds()},
            {"duo.finish", answer.finish()}});
}

// Before the engine has the question.
void AskJob::End(const absl::Status& status) {
  if (!status.ok()) SendSpan(c_, {"Ask", caller_, who_.owner, session_, begun_}, status);
  c_.activity.End(activity_);
  c_.Count("Ask", status, who_.owner, caller_);
  for (const auto& answer : answers_) answer->Close(status);
}

double AskJob::Seconds() const { return SecondsSince(begun_); }

}  // namespace duo
