#include "launcher/serve/http/api/answers/answer.h"

#include <chrono>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/scheduler/busy.h"

namespace duo::http {
namespace {

constexpr char kEvents[] = "text/event-stream", kJson[] = "application/json";
// The session's text is part of the prompt, and was not read for it.
void AddHistory(const std::string& session, Choice& choice) {
  choice.cached_tokens = choice.stats.history_tokens;
  choice.prompt_tokens = choice.stats.history_tokens + choice.stats.prompt_tokens;
  choice.cached = {.tokens = choice.cached_tokens, .source = "open", .session = session};
}

constexpr double kSilence = 30;  // seconds before an answer that is not streamed is kept alive, its code then given

}  // namespace

Usage UsageOf(const std::vector<Choice>& choices) {
  Usage usage;
  for (const Choice& choice : choices) {
    usage.completion_tokens += choice.new_tokens;
    if (choice.answer > 0) continue;
    usage.prompt_tokens += choice.prompt_tokens;
    usage.cached_tokens += choice.cached_tokens;
  }
  return usage;
}

std::string NewId(const std::string& prefix) {
  std::random_device random;
  return absl::StrFormat("%s%08x%08x%08x", prefix, random(), random(), random());
}

int64_t UnixTime() {
  using std::chrono::system_clock;
  return std::chrono::duration_cast<std::chrono::seconds>(system_clock::now().time_since_epoch()).count();
}

std::string Event(const Json& data) { return absl::StrCat("data: ", Text(data), "\n\n"); }

std::string NamedEvent(const std::string& name, const Json& data) {
  return absl::StrCat("event: ", name, "\ndata: ", Text(data), "\n\n");
}

Answer::Answer(Service& service, ExchangePtr exchange, AnswerRequest request, AnswerShape shape)
    : service_(service), exchange_(std::move(exchange)), request_(std::move(request)), shape_(std::move(shape)) {}

void Answer::Start() {
  const double every = service_.comment_seconds;
  if (request_.stream) {
    exchange_->KeepAliveWith({every, every, ":\n\n", kEvents});
  } else {
    exchange_->KeepAliveWith({every > 0 ? kSilence : 0, every, "\n", kJson});
  }
  const auto n = static_cast<size_t>(request_.n);
  running_ = request_.prompts.size() * n;
  begun_.resize(running_);
  choices_.resize(running_);
  unsaid_.resize(running_);
  for (size_t i = 0; i < running_; ++i) {
    choices_[i].index = static_cast<int>(i);
    choices_[i].answer = static_cast<int>(i % n);
    choices_[i].prompt_tokens = static_cast<int64_t>(request_.prompts[i / n].size());
    if (request_.echo) choices_[i].prompt = request_.prompts[i / n];
  }
  for (size_t prompt = 0; prompt < request_.prompts.size(); ++prompt) jobs_.push_back(MakeJob(prompt));
  exchange_->OnGone([self = shared_from_this()] {
    for (const auto& job : self->jobs_) job->Cancel();
  });
  const std::vector<std::shared_ptr<AskJob>> jobs = jobs_;
  request_.ask.waits_for_reader = request_.stream;
  for (size_t i = 0; i < jobs.size(); ++i) {
    request_.ask.tokens = std::move(request_.prompts[i]);
    jobs[i]->Start(CallerOf(exchange_->request), request_.ask);
  }
  request_.prompts.clear();
  request_.ask.tokens = {};
}

// Its transports are called on the engine's thread, mostly.
std::shared_ptr<AskJob> Answer::MakeJob(size_t prompt) {
  std::vector<CallTransport<AskUpdate>> transports;
  const auto n = static_cast<size_t>(request_.n);
  const auto self = shared_from_this();
  for (size_t i = prompt * n; i < (prompt + 1) * n; ++i) {
    transports.push_back({[self, i](AskUpdate update) {
                            self->exchange_->Post([self, i, update = std::move(update)]() mutable {
                              self->OnUpdate(i, std::move(update));
                            });
                          },
                          [self, i](const absl::Status& status) {
                            self->exchange_->Post([self, i, status] { self->OnFinish(i, status); });
                          }});
  }
  return std::make_shared<AskJob>(*service_.calls, std::move(transports));
}

void Answer::OnUpdate(size_t index, AskUpdate update) {
  const auto n = static_cast<size_t>(request_.n);
  const auto written = [job = jobs_[index / n], answer = index % n](bool ok) { job->Written(ok, answer); };
  Choice& choice = choices_[index];
  choice.new_tokens += static_cast<int64_t>(update.tokens.size());
  choice.text += update.text;
  choice.tokens.insert(choice.tokens.end(), update.tokens.begin(), update.tokens.end());
  choice.scores.insert(choice.scores.end(), update.scores.begin(), update.scores.end());
  choice.prompt_scores.insert(choice.prompt_scores.end(), update.prompt_scores.begin(), update.prompt_scores.end());
  choice.cached = update.cached;
  choice.cached_tokens = update.cached.tokens;
  if (update.done) {
    choice.ended_by = update.finish;
    choice.stop = update.stop;
    choice.finish = update.finish == "length" ? "length" : "stop";
    choice.stats = update.stats;
    if (request_.on_session) AddHistory(request_.ask.session_id, choice);
    choice.sources = std::move(update.sources);
    choice.token_sources = std::move(update.token_sources);
  }
  if (!request_.stream || broken_) return written(true);
  AskUpdate& grown = unsaid_[index];
  grown.text = std::move(update.text);
  grown.tokens.insert(grown.tokens.end(), update.tokens.begin(), update.tokens.end());
  grown.scores.insert(grown.scores.end(), update.scores.begin(), update.scores.end());
  std::string events;
  if (!grown.text.empty()) {
    events = shape_.piece(choice, std::exchange(grown, {}), !begun_[index]);
    begun_[index] = true;
  }
  if (update.done) {
    events += shape_.finish(choice, std::exchange(grown, {}), !begun_[index]);
    begun_[index] = true;
  }
  if (events.empty()) return written(true);
  exchange_->Begin(200, kEvents, Headers());
  exchange_->Write(std::move(events), written);
}

// What all prompts together did not have to have read, as far as it is known.
Fields Answer::Headers() const {
  const int64_t cached = UsageOf(choices_).cached_tokens;
  return cached > 0 ? Fields{{"X-Duo-Cached-Tokens", absl::StrCat(cached)}} : Fields();
}

void Answer::OnFinish(size_t, const absl::Status& status) {
  if (!status.ok()) Break(status);
  if (--running_ > 0) return;
  --service_.answers;
  jobs_.clear();
  if (!broken_) Complete();
}

void Answer::Complete() {
  if (!request_.stream) return exchange_->Answer(200, kJson, Text(shape_.whole(choices_)), Headers());
  exchange_->Begin(200, kEvents, Headers());
  if (std::string last = shape_.end(choices_); !last.empty()) exchange_->Write(std::move(last));
  exchange_->End();
}

// One question failed: the others stop, and the client is told, in the middle of a stream by an event.
void Answer::Break(const absl::Status& status) {
  if (broken_) return;
  broken_ = true;
  for (const auto& job : jobs_) job->Cancel();
  ErrorAnswer error = service_.Error(status);
  if (error.status == 400 && error.param.empty() && request_.ask.guide.kind != Guide::Kind::kNone) {
    error.param = "response_format";  // what is compiled when the request is read already
  }
  if (!request_.stream || !exchange_->begun()) return Fail(*exchange_, error);
  exchange_->Write(shape_.error(error));
  exchange_->End();
}

namespace {

// On a worker's thread, then back.
void PrepareAnswer(Service& service, const ExchangePtr& exchange, const Prepare& prepare) {
  absl::StatusOr<Prepared> prepared;
  const std::string text = std::move(exchange->request.body);
  absl::StatusOr<Json> object = ParseBody(text);
  if (object.ok()) {
    Body body(*object);
    prepared = prepare(service, body);
    if (prepared.ok() && !body.status().ok()) prepared = body.status();
    if (prepared.ok()) service.LogUnknown(body.Unknown());
  } else {
    prepared = object.status();
  }
  exchange->Post([&service, exchange, prepared = std::move(prepared)]() mutable {
    if (!prepared.ok() || exchange->gone()) {
      --service.answers;
      if (!prepared.ok()) Fail(*exchange, service.Error(prepared.status()));
      return;
    }
    std::make_shared<Answer>(service, exchange, std::move(prepared->request), std::move(prepared->shape))->Start();
  });
}

}  // namespace

void Respond(Service& service, const ExchangePtr& exchange, Prepare prepare) {
  if (const std::optional<Refusal> why = NotReady(service)) return Fail(*exchange, NotReadyError(*why));
  if (service.answers >= service.limits.queue) {  // before anything is made of the body
    return Fail(*exchange, service.Error(Busy(absl::StrFormat(
                               "%d answers wait or are being written, the limit is %d (--max-queue); try again later",
                               service.answers, service.limits.queue))));
  }
  ++service.answers;
  const bool posted = service.Work(exchange->request.body.size(), [&service, exchange, prepare = std::move(prepare)] {
    PrepareAnswer(service, exchange, prepare);
  });
  if (posted) return;
  --service.answers;
  Fail(*exchange, service.Error(QueueFull()));
}

}  // namespace duo::http
