// AskAnswer: one answer of a question: the tokens that the engine draws become messages of text, tokens and scores. The
// answer is written as it comes; what comes while a message is on its way goes with the next.
//
// Made by AskJob, which keeps it alive. The engine's thread calls what is named for it; the rest any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launcher/serve/calls/call_stream.h"
#include "launcher/serve/sessions/session_view.h"
#include "runtime/model/decode_sparsity.h"
#include "runtime/model/token_score.h"
#include "runtime/provenance/sources.h"
#include "runtime/text/grammar/matcher.h"
#include "runtime/text/text_stream.h"

namespace duo {

struct AskStats {
  int64_t history_tokens = 0, prompt_tokens = 0, new_tokens = 0;
  double queue_seconds = 0, prefill_seconds = 0, first_token_seconds = 0, decode_seconds = 0;
  int64_t draw_steps = 0, drafted_tokens = 0, accepted_tokens = 0;  // as RequestResult has them
  DecodeReport decode;                                              // likewise
};

// What the answer grew by since the last message.
struct AskUpdate {
  std::string text;             // never part of a stop text
  std::vector<int32_t> tokens;  // without stop text and end token
  std::vector<TokenScore> scores = {},
                          prompt_scores = {};           // as the request's rules ask: of `tokens`; of the question's
  CachedText cached = {};                               // what of the prompt did not have to be read
  bool done = false;                                    // the last message, which alone has what follows
  std::string finish;                                   // "stop", "eos", "length"
  std::vector<Source> sources = {};                     // as the request asks: where the answer looked, most first
  std::vector<std::vector<Source>> token_sources = {};  // likewise of each of its tokens
  std::string stop;                                     // the stop text that it ended before; empty: none
  AskStats stats;

  AskUpdate Take() { return std::exchange(*this, {}); }
};

class AskAnswer {
 public:
  explicit AskAnswer(CallTransport<AskUpdate> transport) : stream_(std::move(transport)) {}

  // Before the engine draws. matcher: what the answer is to be; null: anything. ends: tokens that may end it.
  void Expect(std::unique_ptr<TextStream> text, std::unique_ptr<GrammarMatcher> matcher, std::vector<int32_t> ends);

  // For the engine's thread: what AskEvents has.
  void OnStart(const CachedText& cached) { cached_ = cached; }
  bool OnToken(int32_t token, double seconds);  // since the question was asked
  // The last token brought something to Send, on any thread.
  bool due() const { return due_; }
  void Send() { stream_.Send(); }
  absl::Status Allow(std::vector<uint32_t>* mask) { return matcher_->Mask(ends_, mask); }
  void OnScore(const TokenScore& score) { scores_.push_back(score); }
  void OnPromptScore(const TokenScore& score);
  // Where it looked, if that is wanted: what of, before the rows; then FindSources, on any thread, before OnDone.
  void ExpectSources(const Tokenizer* tokenizer, const SourceMap::Options& options, bool of_tokens);
  void OnSent(std::shared_ptr<const SentSession> session) { session_ = std::move(session); }
  void OnMass(const RowMass& mass);
  bool wants_sources() const { return session_ != nullptr && !masses_.empty(); }
  size_t sent_bytes() const { return session_->sent.text.size(); }
  const std::vector<float>& looked() const { return looked_; }  // RowMass::ranges of its first token; empty: unknown
  void FindSources();
  // It has ended: all of its text. What of it was not given out goes with the last message.
  std::string Said();
  // What the answer ended with, its last message on its way where that is OK.
  absl::Status OnDone(const RequestResult& result, int64_t history);
  // The client has not taken for so long what was sent that the answer should not go on.
  bool Unread();

  void Gone() { stream_.Gone(); }
  // True: the answer was waiting for this, and the engine's thread is to be woken.
  bool Written(bool ok);
  bool Close(const absl::Status& status) { return stream_.Close(status); }

  double first_token_seconds() const { return first_token_; }
  int64_t drawn() const { return static_cast<int64_t>(drawn_.size()); }
  int64_t sent() const { return sent_; }
  const std::string& finish() const { return finish_; }  // as AskUpdate has it; empty: it has not ended

 private:
  void AddTokens(AskUpdate& update);

  CallStream<AskUpdate> stream_;
  std::atomic<bool> waits_{false};

  // On the engine's thread once the question is there.
  std::unique_ptr<GrammarMatcher> matcher_;
  absl::Status broken_;  // the matcher could not follow
  std::unique_ptr<TextStream> text_;
  std::optional<std::string> last_text_;  // that Said took from it
  std::vector<int32_t> ends_;
  CachedText cached_;
  double first_token_ = 0;
  bool due_ = false;
  std::vector<int32_t> drawn_;
  std::vector<TokenScore> scores_;        // of drawn_, where the request asks
  const Tokenizer* tokenizer_ = nullptr;  // where sources are wanted, as is what follows
  SourceMap::Options source_options_;
  bool of_tokens_ = false;
  std::shared_ptr<const SentSession> session_;
  std::vector<LookedAt> masses_;  // of drawn_
  std::vector<float> looked_;
  std::vector<Source> sources_;
  std::vector<std::vector<Source>> token_sources_;
  int64_t sent_ = 0;
  std::string finish_;
};

}  // namespace duo
