// Chat templates: a conversation as the text that a model was trained on.
// What: a model's own template, a Jinja program (chat_template.jinja, or chat_template in tokenizer_config.json), is
// run, and gives the text that transformers' apply_chat_template gives; what cannot be run is refused with line and
// column, never guessed at. Safety: what people wrote comes in segments of its own, in which special-token text stays
// text; the template's own words and plain roles may become special tokens. Ownership: cheap values. Threads: const use
// is safe from any thread. Errors: Status.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/jinja/template.h"
#include "runtime/text/tokenizer.h"

namespace duo {

struct Message {
  std::string role;  // "system", "user", "assistant", "tool", ..
  std::string content;
};

// All that a template may be given.
struct Conversation {
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();  // objects with a role; null: left out
  nlohmann::ordered_json tools, documents;                            // lists, or null
};

struct ChatTemplateSource {
  std::string name;  // "default", "tool_use", ..
  std::string file;  // what errors call it
  std::string jinja;
};

class ChatTemplate {
 public:
  // sources: one, whatever its name, or several, of which "tool_use" is for conversations with tools and "default" for
  // all others. tokens: bos_token and its like, with their texts. Only a template that is used must be one that can be
  // run.
  ChatTemplate(std::span<const ChatTemplateSource> sources, std::vector<std::pair<std::string, std::string>> tokens);

  // Further variables, as `enable_thinking`: for every conversation from now on.
  void SetArgument(const std::string& name, nlohmann::ordered_json value) { arguments_[name] = std::move(value); }
  // The time, as strftime writes it in a format; the local one unless this is called.
  void SetClock(std::function<std::string(const std::string& format)> clock) { clock_ = std::move(clock); }

  // Whether a conversation without tools can be rendered at all.
  absl::Status status() const;
  const std::string& file() const { return templates_.front().file; }
  // The templates as they are written, one after the other.
  const std::string& source() const { return source_; }

  // The conversation, then, if asked, what makes the model answer. Refused: no messages, and what the template refuses.
  // Encode the result with Tokenizer::EncodeSegments and without adding BOS: where the model wants one it is in the
  // text.
  absl::StatusOr<std::vector<TextSegment>> Render(const Conversation& conversation, bool add_generation_prompt) const;
  absl::StatusOr<std::vector<TextSegment>> Render(std::span<const Message> messages, bool add_generation_prompt) const;

  // The token that the template writes behind an answer, which not every model's stop tokens name; else the end-of-text
  // token, if there is one.
  std::optional<int32_t> EndOfTurn(const Tokenizer& tokenizer) const;

 private:
  struct Named {
    std::string name, file;
    absl::StatusOr<jinja::Template> parsed;
  };
  absl::StatusOr<const jinja::Template*> Choose(bool with_tools) const;

  std::vector<Named> templates_;
  std::string source_;
  std::vector<std::pair<std::string, std::string>> tokens_;
  nlohmann::ordered_json arguments_ = nlohmann::ordered_json::object();
  std::function<std::string(const std::string& format)> clock_ = jinja::LocalTime;
};

// A text without the white space before and, if asked, behind it: as Python's str.strip() and Jinja's trim have it.
std::string_view TrimmedText(std::string_view text, bool right = true);

// Questions on one document: each is a user turn of the document, a blank line and the question, which the model is to
// answer. What all of them begin with is apart, so that it is read once.
struct DocumentTurns {
  std::vector<TextSegment> document;
  std::vector<std::vector<TextSegment>> questions;
};

// system: the system turn; empty: the template's own, if it has one. White space around a question is dropped; an empty
// question is refused, and so is what Render refuses, and a template that changes what users write.
absl::StatusOr<DocumentTurns> RenderQuestions(const ChatTemplate& chat, const std::string& system,
                                              const std::string& document, std::span<const std::string> questions);

// The template of the model in model_dir, a folder or a GGUF file. NotFound if it has none.
absl::StatusOr<ChatTemplate> ChatTemplateFor(const std::string& model_dir);

// A conversation as JSON: a list of messages, or an object with messages, tools and documents. Contents are texts or
// lists of parts of type text, which are joined; other kinds of parts are refused. name: what errors call it.
absl::StatusOr<Conversation> ParseConversation(std::string_view json, const std::string& name);
// The same of one that has been taken apart already.
absl::Status CheckConversation(Conversation* conversation, const std::string& name);

}  // namespace duo
