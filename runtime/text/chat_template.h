// Chat templates: a conversation as the text that a model was trained on.
// What: the families Llama-2, Llama-3 to 3.3, Mistral v0.1 to v0.3 and Nemo, and ChatML (Qwen2, 2.5, 3, SmolLM2). A
// model's own template (chat_template in tokenizer_config.json, or chat_template.jinja) is not executed: its family and
// the ways in which members differ (spaces, default system text, dates) are read off it. A template of none of these
// families is refused, with what was found. Source: the templates' published behaviour, compared by
// tests/golden/chat_parity.py. Safety: what people wrote comes in segments of its own, in which special-token text
// stays text. Ownership: plain values. Threads: const use is safe from any thread. Errors: Status.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/tokenizer.h"

namespace duo {

enum class ChatRole { kSystem, kUser, kAssistant };

// "system", "user", "assistant"; others are refused.
absl::StatusOr<ChatRole> ParseChatRole(std::string_view name);

struct Message {
  ChatRole role = ChatRole::kUser;
  std::string content;
};

enum class ChatFamily { kLlama2, kLlama3, kMistral, kChatMl };

struct ChatTemplate {
  ChatFamily family = ChatFamily::kChatMl;
  std::string bos, eos;  // the tokens' texts

  std::string
      date;  // Llama-3.1 and later: the "Today Date" of the system turn; empty: that turn is written only if asked

  std::string default_system;   // ChatML: the system turn of a conversation without one; empty: none
  bool drops_thinking = false;  // ChatML, Qwen3: earlier answers lose their <think> part
  bool opens_thinking = false;  // ChatML: the generation prompt begins a <think> part

  enum class SystemPlace { kNone, kFirstUser, kLastUser };
  SystemPlace system_place = SystemPlace::kNone;  // Mistral: which user turn takes the system text
  std::string user_open, user_close;              // Mistral: around a user turn
  std::string assistant_open, assistant_close;    // Mistral: around an answer; the close includes eos
  bool trims_answers = false;                     // Mistral

  // The conversation, then, if asked, what makes the model answer. Refused: no messages; an order of turns that the
  // family does not allow. Encode the result with Tokenizer::EncodeSegments and without adding BOS: where the family
  // has one it is in the text.
  absl::StatusOr<std::vector<TextSegment>> Render(std::span<const Message> messages, bool add_generation_prompt) const;

  // The token that ends an answer, which not every model's stop tokens name.
  std::string EndOfTurn() const;
};

// Questions on one document: each is a user turn of the document, a blank line and the question, which the model is to
// answer. What all of them begin with is apart, so that it is read once.
struct DocumentTurns {
  std::vector<TextSegment> document;
  std::vector<std::vector<TextSegment>> questions;
};

// system: the system turn; empty: the template's own, if it has one. White space around a question is dropped; an empty
// question is refused, and so is what Render refuses.
absl::StatusOr<DocumentTurns> RenderQuestions(const ChatTemplate& chat, const std::string& system,
                                              const std::string& document, std::span<const std::string> questions);

// The template of the model in model_dir.
absl::StatusOr<ChatTemplate> ChatTemplateFor(const std::string& model_dir);

// jinja: the template's source; bos, eos: the tokens' texts; today: for templates that ask for the date, as "26 Jul
// 2024"; name: what errors call the file.
absl::StatusOr<ChatTemplate> RecogniseChatTemplate(std::string_view jinja, const std::string& bos,
                                                   const std::string& eos, const std::string& today,
                                                   const std::string& name);

}  // namespace duo
