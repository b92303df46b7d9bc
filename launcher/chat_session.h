// ChatSession: a conversation with a model in this process. Its history is one session of the engine, to which each
// turn adds what is new; what a turn takes back is cut off. One thread; borrows engine, tokenizer and template.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine/engine.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer.h"

namespace duo {

struct ChatOptions {
  int64_t max_new_tokens = 1024;  // of an answer
  float temperature = 0, top_p = 1;
  uint64_t seed = 0;
  std::vector<int32_t> end_tokens;  // each ends an answer
};

struct ChatAnswer {
  std::string text;
  RequestResult result;
  int64_t history_tokens = 0;  // that were there already
  bool stopped = false;        // by its reader
};

class ChatSession {
 public:
  ChatSession(Engine& engine, const Tokenizer& tokenizer, const ChatTemplate& chat, ChatOptions options)
      : engine_(engine), tokenizer_(tokenizer), chat_(chat), options_(std::move(options)) {}

  absl::Status Open(int64_t max_tokens);

  // What the answer is shown by: how much of the turn is read, the text as it comes, and whether to stop.
  struct Listener {
    std::function<void(int64_t done, int64_t total)> on_read;
    std::function<void(const std::string& text)> on_text;
    std::function<bool()> stopped;
  };
  // The user's turn and the model's. Where it fails the turn is taken back; an answer that was stopped stays.
  absl::StatusOr<ChatAnswer> Say(const std::string& text, const Listener& listener);

  // The system turn, from the next answer on; empty: the template's own.
  void SetSystem(const std::string& text) { system_ = text; }
  void Clear() { turns_.clear(); }
  bool Undo();  // the last question and its answer; false: there is none
  const std::vector<Message>& turns() const { return turns_; }
  absl::StatusOr<int64_t> tokens() const;

 private:
  absl::StatusOr<std::vector<int32_t>> Encoded() const;
  // Cuts the session to what `tokens` begins with too, and gives the rest of them.
  absl::StatusOr<std::vector<int32_t>> Rest(const std::vector<int32_t>& tokens);
  absl::Status Answer(std::vector<int32_t> tokens, const Listener& listener, ChatAnswer& answer);

  Engine& engine_;
  const Tokenizer& tokenizer_;
  const ChatTemplate& chat_;
  const ChatOptions options_;
  SessionId session_ = 0;
  int64_t max_tokens_ = 0;
  std::string system_;
  std::vector<Message> turns_;
};

}  // namespace duo
