#include "launcher/serve/calls/ask_job.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/base/seconds.h"

namespace duo {
namespace {

constexpr int kMostStops = 16;
constexpr size_t kLongestStop = 256;
constexpr int64_t kDefaultNewTokens = 128;

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

void AskJob::Start(const Caller& caller, const AskRequest& request) {
  begun_ = std::chrono::steady_clock::now();
  absl::StatusOr<Identity> who = c_.Authenticate(caller, Right::kSessions);
  if (!who.ok()) return End(who.status());
  const bool posted = c_.workers->Post(request.text.size(),
                                       [self = shared_from_this(), who = *who, request] { self->Begin(who, request); });
  if (!posted) End(QueueFull());
}

// On a worker's thread.
void AskJob::Begin(const Identity& who, const AskRequest& request) {
  GenerateParams params;
  std::vector<int32_t> tokens;
  if (absl::Status s = Read(request, &params, &tokens); !s.ok()) return End(s);
  who_ = who;
  if (request.guide.kind == Guide::Kind::kNone) return Post(request, params, std::move(tokens));
  c_.guides->Compile(request.guide, [self = shared_from_this(), request, params,
                                     tokens = std::move(tokens)](const absl::StatusOr<CompiledGuide>& guide) {
    if (!guide.ok()) return self->End(guide.status());
    self->matcher_ = std::make_unique<GrammarMatcher>(guide->grammar, guide->tokens);
    self->Post(request, params, tokens);
  });
}

void AskJob::Post(const AskRequest& request, const GenerateParams& params, std::vector<int32_t> tokens) {
  const bool posted = c_.thread->Post([self = shared_from_this(), id = request.session_id, alone = request.alone,
                                       params, tokens = std::move(tokens)]() mutable {
    if (alone) return self->c_.sessions->AskAlone(self->call_, std::move(tokens), params, self->Events());
    if (absl::Status s = self->c_.CheckOwner(self->who_, id); !s.ok()) return self->End(s);
    self->c_.sessions->Ask(self->call_, id, std::move(tokens), params, self->Events());
  });
  if (!posted) End(QueueFull());
}

AskEvents AskJob::Events() {
  AskEvents events;
  events.on_token = [self = shared_from_this()](int32_t token) { return self->OnToken(token); };
  if (matcher_ != nullptr) {
    events.allow = [self = shared_from_this()](std::vector<uint32_t>* mask) {
      return self->matcher_->Mask(self->ends_, mask);
    };
  }
  events.on_score = [self = shared_from_this()](const TokenScore& score) { self->scores_.push_back(score); };
  events.on_prompt_score = [self = shared_from_this()](const TokenScore& score) {
    self->stream_.Update([&](AskUpdate& update) {
      update.prompt_scores.push_back(score);
      return false;
    });
  };
  events.on_done = [self = shared_from_this()](const RequestResult& result, int64_t history) {
    self->OnAnswered(result, history);
  };
  return events;
}

void AskJob::Cancel() {
  stream_.Gone();
  c_.thread->Urgent([self = shared_from_this()] { self->c_.sessions->Cancel(self->call_); });
}

absl::Status AskJob::Read(const AskRequest& r, GenerateParams* params, std::vector<int32_t>* tokens) {
  if (!r.text.empty() && !r.tokens.empty()) return absl::InvalidArgumentError("give text or tokens, not both");
  if (r.text.empty() && r.tokens.empty()) return absl::InvalidArgumentError("the question has no text");
  const bool only_scores = r.max_new_tokens == -1 && r.rules.prompt_scores >= 0;
  params->max_new_tokens = only_scores ? 0 : r.max_new_tokens == 0 ? kDefaultNewTokens : r.max_new_tokens;
  if (params->max_new_tokens < (only_scores ? 0 : 1) || params->max_new_tokens > c_.limits.new_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("max_new_tokens must be 1 to ", c_.limits.new_tokens,
                                                   " on this server, found ", r.max_new_tokens));
  }
  params->temperature = r.temperature;
  params->top_p = r.top_p == 0 ? 1.0f : r.top_p;
  if (absl::Status s = CheckSampling(*params, r); !s.ok()) return s;
  if (absl::Status s = CheckRules(r.rules, c_.vocab); !s.ok()) return s;
  params->rules = r.rules;
  if (absl::Status s = CheckStops(r.stop); !s.ok()) return s;
  params->seed = r.seed;
  params->keep = r.keep;
  if (!r.ignore_end_tokens) params->end_tokens = c_.end_tokens;
  params->end_tokens.insert(params->end_tokens.end(), r.end_tokens.begin(), r.end_tokens.end());
  ends_ = params->end_tokens;
  ends_.insert(ends_.end(), r.rules.stop_tokens.begin(), r.rules.stop_tokens.end());
  if (r.tokens.empty()) {
    absl::StatusOr<std::vector<int32_t>> read = c_.Encode(r.text, r.special);
    if (!read.ok()) return read.status();
    *tokens = *std::move(read);
  } else {
    if (absl::Status s = c_.CheckTokens(r.tokens); !s.ok()) return s;
    *tokens = r.tokens;
  }
  answer_ = std::make_unique<TextStream>(*c_.tokenizer, r.stop);
  return absl::OkStatus();
}

bool AskJob::OnToken(int32_t token) {
  if (drawn_.empty()) first_token_ = Seconds();
  drawn_.push_back(token);
  const std::string text = answer_->Push(token);
  stream_.Update([&](AskUpdate& update) {
    update.text += text;
    AddTokens(update);
    return !update.text.empty() || !update.tokens.empty();
  });
  if (matcher_ != nullptr) {
    broken_ = matcher_->Accept(token);
    if (!broken_.ok() || matcher_->must_end()) return false;
  }
  return !answer_->stopped();
}

void AskJob::OnAnswered(const RequestResult& result, int64_t history) {
  if (!result.status.ok()) return End(result.status);
  if (!broken_.ok()) return End(broken_);
  const std::string text = answer_->Flush();
  stream_.Update([&](AskUpdate& update) {
    update.text += text;
    AddTokens(update);
    update.done = true;
    update.finish = answer_->stopped() ? "stop" : Name(result.finish);
    update.stats = {history,      result.prompt_tokens, sent_, result.queue_seconds, result.prefill_seconds,
                    first_token_, result.decode_seconds};
    return true;
  });
  c_.metrics->ObserveQueue(result.queue_seconds);
  if (!drawn_.empty()) c_.metrics->ObserveFirstToken(first_token_);
  if (drawn_.size() > 1) c_.metrics->ObserveToken(result.decode_seconds / (drawn_.size() - 1));
  End(absl::OkStatus());
}

// The tokens of which no later one can make a stop text.
void AskJob::AddTokens(AskUpdate& update) {
  const int64_t certain = std::max(sent_, answer_->tokens());
  update.tokens.insert(update.tokens.end(), drawn_.begin() + sent_, drawn_.begin() + certain);
  if (!scores_.empty()) {
    update.scores.insert(update.scores.end(), scores_.begin() + sent_, scores_.begin() + certain);
  }
  sent_ = certain;
}

void AskJob::End(const absl::Status& status) {
  c_.Count("Ask", status);
  stream_.Close(status);
}

double AskJob::Seconds() const { return SecondsSince(begun_); }

}  // namespace duo
