// AnswerParts: an answer's text, as it comes, to what a chat client is told: reasoning, content, tool calls.
//
// What: models think inside <think> .. </think>, where a template makes them, and call tools in forms of their
// family's: Qwen's and Hermes' write <tool_call>{"name": .., "arguments": {..}}</tool_call>, Llama 3's an object
// {"name": .., "parameters": {..}} that is the whole answer, or several with semicolons between them. What looks like a
// call and is none stays content, so nothing is lost.
// White space next to the markers belongs to the form, not to content or reasoning, and is dropped.
// Why here: the result depends on the text alone, not on how it was cut. Texts of one kind that follow each other are
// one. A value; one thread at a time. Errors: none.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace duo {

struct AnswerForm {
  bool reasoning = false;        // <think> .. </think> is split off
  bool begins_thinking = false;  // the prompt ended in <think>
  enum class Tools { kNone, kHermes, kLlama3 } tools = Tools::kNone;
};

struct AnswerPart {
  enum class Kind { kReasoning, kContent, kToolCall };
  Kind kind = Kind::kContent;
  std::string text;       // of a call: its arguments, a JSON object
  std::string name = {};  // of a call: the tool's
  friend bool operator==(const AnswerPart&, const AnswerPart&) = default;
};

class AnswerParts {
 public:
  explicit AnswerParts(const AnswerForm& form);

  // What became certain.
  std::vector<AnswerPart> Push(std::string_view text);
  // The answer ended: what was held back.
  std::vector<AnswerPart> Flush();

 private:
  enum class Place { kStart, kThinking, kContent, kCall, kObjects };
  void Read(bool ended);
  bool ReadOnce(bool ended);
  void Give(AnswerPart::Kind kind, std::string_view text);
  size_t Certain(std::string_view marker, bool ended) const;
  bool GiveObjects(std::string_view text);

  AnswerForm form_;
  bool plain_;  // nothing is looked for
  Place place_;
  bool trim_ = true;  // white space that comes next is dropped
  std::string held_;
  std::vector<AnswerPart> out_;
};

// How a model whose template has this source answers, as far as one can tell.
AnswerForm AnswerFormOf(std::string_view template_source);

}  // namespace duo
