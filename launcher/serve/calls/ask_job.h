// AskJob: one question from its check to the last piece of its answer. The answer is written as it comes; what comes
// while a message is on its way goes with the next.
//
// Held by shared_ptr: by the transport as long as it may call, and by what the job has posted. Any thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "launcher/serve/calls/call_stream.h"
#include "launcher/serve/calls/context.h"
#include "runtime/text/text_stream.h"

namespace duo {

struct AskRequest {
  std::string session_id = {};
  bool alone = false;     // belongs to no session: the tokens are a whole prompt, and begin as it is to begin
  std::string text = {};  // the question as the model is to see it
  std::vector<int32_t> tokens = {};  // instead of text
  int64_t max_new_tokens = 0;        // 0: 128; -1, with rules.prompt_scores: none
  float temperature = 0;             // 0: the likeliest token always
  float top_p = 0;                   // 0: 1
  uint64_t seed = 0;
  std::vector<std::string> stop = {};  // the answer ends before the first of these texts
  bool keep = false;                   // question and answer become part of the session
  bool special = false;                // special tokens' text becomes those tokens
  bool ignore_end_tokens = false;
  std::vector<int32_t> end_tokens = {};  // besides the model's
  SamplingRules rules = {};
  Guide guide = {};  // what the answer is to be
};

struct AskStats {
  int64_t history_tokens = 0, prompt_tokens = 0, new_tokens = 0;
  double queue_seconds = 0, prefill_seconds = 0, first_token_seconds = 0, decode_seconds = 0;
};

// What the answer grew by since the last message.
struct AskUpdate {
  std::string text;             // never part of a stop text
  std::vector<int32_t> tokens;  // without stop text and end token
  std::vector<TokenScore> scores = {},
                          prompt_scores = {};  // as the request's rules ask: of `tokens`; of the question's
  bool done = false;                           // the last message, which alone has what follows
  std::string finish;                          // "stop", "eos", "length"
  AskStats stats;

  AskUpdate Take() { return std::exchange(*this, {}); }
};

class AskJob : public std::enable_shared_from_this<AskJob> {
 public:
  AskJob(CallContext& context, CallTransport<AskUpdate> transport) : c_(context), stream_(std::move(transport)) {}

  // Checks the caller; a worker checks the request and makes tokens of its text, and Sessions gets it. Once, first.
  void Start(const Caller& caller, const AskRequest& request);
  void Written(bool ok) { stream_.Written(ok); }
  void Cancel();  // the client is gone or its deadline is over; also after the end

 private:
  void Begin(const Identity& who, const AskRequest& request);
  absl::Status Read(const AskRequest& request, GenerateParams* params, std::vector<int32_t>* tokens);
  void Post(const AskRequest& request, const GenerateParams& params, std::vector<int32_t> tokens);
  AskEvents Events();
  bool OnToken(int32_t token);
  void OnAnswered(const RequestResult& result, int64_t history);
  void AddTokens(AskUpdate& update);
  void End(const absl::Status& status);
  double Seconds() const;

  CallContext& c_;
  const CallPtr call_ = std::make_shared<Call>();
  CallStream<AskUpdate> stream_;
  std::chrono::steady_clock::time_point begun_;

  Identity who_;               // of the caller
  std::vector<int32_t> ends_;  // tokens that may end the answer

  // On the engine's thread once the question is there.
  std::unique_ptr<GrammarMatcher> matcher_;  // null: the answer may be anything
  absl::Status broken_;                      // the matcher could not follow
  std::unique_ptr<TextStream> answer_;
  double first_token_ = 0;
  std::vector<int32_t> drawn_;
  std::vector<TokenScore> scores_;  // of drawn_, where the request asks
  int64_t sent_ = 0;
};

}  // namespace duo
