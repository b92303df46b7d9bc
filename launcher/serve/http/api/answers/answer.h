// Answer: one request for answers, from its prompts to the last byte: each prompt is asked, what comes is put into the
// shape that the route gives it, whole or as a stream of events, and a client that is gone stops all of it.
//
// I/O thread only. Holds itself while a question runs.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "launcher/serve/calls/ask_job.h"
#include "launcher/serve/http/api/base/body.h"
#include "launcher/serve/http/api/base/service.h"

namespace duo::http {

struct Usage {
  int64_t prompt_tokens = 0, completion_tokens = 0, cached_tokens = 0;
};

// One prompt's answer, as far as it is known.
struct Choice {
  int index = 0;
  int answer = 0;  // which one to its prompt: of several, whose usage counts the prompt once
  int64_t prompt_tokens = 0;
  std::string text;             // all of it
  std::vector<int32_t> tokens;  // likewise
  std::vector<Source> sources;  // where they are asked for
  std::vector<std::vector<Source>> token_sources;
  std::vector<TokenScore> scores, prompt_scores;  // where they are asked for
  std::vector<int32_t> prompt;                    // where it is to be echoed
  int64_t new_tokens = 0, cached_tokens = 0;
  CachedText cached;
  // At its end.
  std::string finish;    // "stop", "length", as OpenAI calls it
  std::string ended_by;  // "stop" (a stop text or token), "eos", "length"
  std::string stop;      // the stop text
  AskStats stats;
};

// How a route's answers look. Each function gives the bytes of whole events; empty: there is nothing to say.
struct AnswerShape {
  // What it grew by has text; `rest` is tokens without one.
  std::function<std::string(const Choice&, const AskUpdate& grown, bool first)> piece;
  std::function<std::string(const Choice&, const AskUpdate& rest, bool first)> finish;
  std::function<std::string(const std::vector<Choice>&)> end;  // behind all choices
  std::function<std::string(const ErrorAnswer&)> error;        // in the middle
  std::function<Json(const std::vector<Choice>&)> whole;       // instead, where nothing is streamed
};

struct AnswerRequest {
  std::vector<std::vector<int32_t>> prompts;  // whole
  AskRequest ask;                             // of each, without tokens
  int n = 1;                                  // answers to each prompt, which is read once; each with a seed of its own
  bool echo = false;                          // choices keep their prompts
  bool on_session = false;                    // ask.session_id's text is the prompt's beginning, as usage tells
  bool stream = false;
};

Usage UsageOf(const std::vector<Choice>& choices);

class Answer : public std::enable_shared_from_this<Answer> {
 public:
  Answer(Service& service, ExchangePtr exchange, AnswerRequest request, AnswerShape shape);
  void Start();

 private:
  std::shared_ptr<AskJob> MakeJob(size_t prompt);
  void OnUpdate(size_t index, AskUpdate update);
  void OnFinish(size_t index, const absl::Status& status);
  Fields Headers() const;
  void Complete();
  void Break(const absl::Status& status);

  Service& service_;
  const ExchangePtr exchange_;
  AnswerRequest request_;
  const AnswerShape shape_;
  std::vector<std::shared_ptr<AskJob>> jobs_;  // one for each prompt
  std::vector<Choice> choices_;
  std::vector<bool> begun_;
  std::vector<AskUpdate> unsaid_;  // what came without a text
  size_t running_ = 0;
  bool broken_ = false;
};

// What a route makes of a body on a worker's thread: what is to be asked, and how the answer is to look.
struct Prepared {
  AnswerRequest request;
  AnswerShape shape;
};
using Prepare = std::function<absl::StatusOr<Prepared>(Service&, Body&)>;

// The way of every route that answers: is there room for one more, the body, `prepare`, the answer.
void Respond(Service& service, const ExchangePtr& exchange, Prepare prepare);

// A new id for an answer, unlike all others.
std::string NewId(const std::string& prefix);
int64_t UnixTime();

// The events of a stream.
std::string Event(const Json& data);
std::string NamedEvent(const std::string& name, const Json& data);
inline constexpr char kDone[] = "data: [DONE]\n\n";

}  // namespace duo::http
