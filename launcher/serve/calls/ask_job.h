// AskJob: one question from its check to the last piece of its answer, or of its answers where several are asked for,
// which are written side by side (ask_answer.h).
//
// Held by shared_ptr: by the transport as long as it may call, and by what the job has posted. Any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launcher/serve/calls/ask_answer.h"
#include "launcher/serve/calls/context.h"

namespace duo {

struct AskRequest {
  std::string session_id = {};
  bool alone = false;     // belongs to no session: the tokens are a whole prompt, and begin as it is to begin
  std::string text = {};  // the question as the model is to see it
  std::vector<int32_t> tokens = {};    // instead of text
  int64_t max_new_tokens = 0;          // 0: 128; -1, with rules.prompt_scores: none
  float temperature = 0;               // 0: the likeliest token always
  float top_p = 0;                     // 0: 1
  uint64_t seed = 0;                   // of the first answer; each further one has the next
  std::vector<std::string> stop = {};  // the answer ends before the first of these texts
  bool keep = false;                   // question and answer become part of the session
  bool special = false;                // special tokens' text becomes those tokens
  bool seam = false;                   // the text is one of its own, whatever is before it
  bool ignore_end_tokens = false;
  std::vector<int32_t> end_tokens = {};  // besides the model's
  SamplingRules rules = {};
  Guide guide = {};            // what the answer is to be
  int32_t sources = 0;         // sentences of the session's text at which the answer looked, at most; 0: none
  bool token_sources = false;  // of each of its tokens, too
  // An answer whose client does not read waits, its place taken; for transports that drop such clients in the end.
  bool waits_for_reader = false;
  bool turn = false;            // as QuestionInput has it
  bool fits = false;            // likewise
  int32_t priority = 0;         // among the caller's calls: lower ones come first
  std::string cache_key = {};   // for the log: by which its client groups prompts
  std::string cache_salt = {};  // of one that is alone: what is in the cache counts only where it has the same
};

class AskJob : public std::enable_shared_from_this<AskJob> {
 public:
  // An answer for each transport; more than one of a question that is `alone`.
  AskJob(CallContext& context, std::vector<CallTransport<AskUpdate>> transports);
  AskJob(CallContext& context, CallTransport<AskUpdate> transport)
      : AskJob(context, std::vector<CallTransport<AskUpdate>>{std::move(transport)}) {}

  // Checks the caller; a worker checks the request, and Sessions gets it. Once, first.
  void Start(const Caller& caller, const AskRequest& request);
  // That answer's message is written.
  void Written(bool ok, size_t answer = 0);
  void Cancel();  // the client is gone or its deadline is over; also after the end

 private:
  void Begin(const AskRequest& request);
  absl::Status Read(const AskRequest& request, GenerateParams* params, QuestionInput* question);
  void Post(const AskRequest& request, const GenerateParams& params, QuestionInput question,
            std::optional<CompiledGuide> guide);
  void Ask(const AskRequest& request, GenerateParams params, QuestionInput question, const CompiledGuide* guide);
  AskEvents Events(size_t answer, const AskRequest& request);
  void OnDone(size_t answer, const RequestResult& result, int64_t history);
  void Ended(size_t answer, const RequestResult& result, int64_t history);
  void LogAnswer(const AskAnswer& answer, const RequestResult& result, int64_t history) const;
  void Trace(const AskAnswer& answer, const RequestResult& result, int64_t history) const;
  void End(const absl::Status& status);
  double Seconds() const;

  CallContext& c_;
  const CallPtr call_ = std::make_shared<Call>();
  std::vector<std::unique_ptr<AskAnswer>> answers_;
  std::chrono::steady_clock::time_point begun_;

  Identity who_;   // of the caller
  Caller caller_;  // by which the call is named
  std::string session_, cache_key_;
  uint64_t activity_ = 0;  // its number there; 0: it has not begun

  // On the engine's thread once the question is there.
  size_t ended_ = 0;     // of answers_
  absl::Status failed_;  // why the first one did that failed
};

}  // namespace duo
