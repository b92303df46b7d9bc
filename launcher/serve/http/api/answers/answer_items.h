// AnswerItems: an answer's text, as it comes, as the list of items that OpenAI's responses and Anthropic's messages are
// made of: what was thought, what is said, each call of a tool.
//
// A value; one thread.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/answer_parts.h"
#include "runtime/text/tokenizer.h"

namespace duo::http {

struct AnswerItem {
  AnswerPart::Kind kind = AnswerPart::Kind::kContent;
  int index = 0;
  std::string id, call_id;  // of a call: what its result is to name
  std::string name;         // of a call: the tool's
  std::string text;         // of a call: its arguments, a JSON object
};

// What is told of items, in order; each gives bytes of events, or nothing.
struct ItemEvents {
  std::function<std::string(const AnswerItem&)> opened;  // nothing is in it yet but a call's name
  std::function<std::string(const AnswerItem&, const std::string& delta)> grew;
  std::function<std::string(const AnswerItem&)> closed;
};

class AnswerItems {
 public:
  explicit AnswerItems(const AnswerForm& form, ItemEvents events = {}) : parts_(form), events_(std::move(events)) {}

  std::string Push(std::string_view text);
  // The answer ended. One that holds nothing has an empty text.
  std::string Flush();
  const std::vector<AnswerItem>& items() const { return items_; }
  bool called() const;

 private:
  std::string Tell(const std::vector<AnswerPart>& parts);
  std::string Open(const AnswerPart& part);
  std::string Close();

  AnswerParts parts_;
  ItemEvents events_;
  std::vector<AnswerItem> items_;
  bool open_ = false;  // the last item may grow
};

// How many of an answer's tokens were spent on thoughts.
int64_t ReasoningTokens(const AnswerForm& form, const Tokenizer& tokenizer, const std::vector<int32_t>& tokens);

// The items of a whole answer.
std::vector<AnswerItem> ItemsOf(const AnswerForm& form, std::string_view text);

}  // namespace duo::http
