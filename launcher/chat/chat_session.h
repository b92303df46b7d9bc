// ChatSession: a conversation with a model in this process. Its history is one session of the engine, to which each
// turn adds what is new; what a turn takes back is cut off. One thread; borrows engine, tokenizer and template.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launcher/chat/chat_types.h"
#include "runtime/engine/engine.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer.h"

namespace duo {

class ChatSession {
 public:
  ChatSession(Engine& engine, const Tokenizer& tokenizer, const ChatTemplate& chat, ChatOptions options)
      : engine_(engine), tokenizer_(tokenizer), chat_(chat), options_(std::move(options)) {}

  absl::Status Open(int64_t max_tokens);

  // The user's turn and the model's. Where it fails the turn is taken back; an answer that was stopped stays.
  absl::StatusOr<ChatAnswer> Say(const std::string& text, const ChatListener& listener);

  // The system turn, from the next answer on; empty: the template's own.
  void SetSystem(const std::string& text) { system_ = text; }
  bool system_waits() const { return false; }  // for a new beginning
  absl::Status Clear() {
    turns_.clear();
    return absl::OkStatus();
  }
  absl::StatusOr<bool> Undo();  // the last question and its answer; false: there is none
  const std::vector<Message>& turns() const { return turns_; }
  absl::StatusOr<int64_t> tokens() const;

 private:
  absl::StatusOr<std::vector<int32_t>> Encoded() const;
  // Cuts the session to what `tokens` begins with too, and gives the rest of them.
  absl::StatusOr<std::vector<int32_t>> Rest(const std::vector<int32_t>& tokens);
  struct Written {
    std::string text;
    RequestResult result;
    int64_t history_tokens = 0;  // that were there already
    bool stopped = false;
  };
  absl::Status Answer(std::vector<int32_t> tokens, const ChatListener& listener, Written& answer);

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
