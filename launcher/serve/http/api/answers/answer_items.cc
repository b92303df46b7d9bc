#include "launcher/serve/http/api/answers/answer_items.h"

#include <algorithm>

#include "launcher/serve/http/api/answers/answer.h"

namespace duo::http {

std::string AnswerItems::Open(const AnswerPart& part) {
  AnswerItem item;
  item.kind = part.kind;
  item.index = static_cast<int>(items_.size());
  item.name = part.name;
  item.id = NewId(part.kind == AnswerPart::Kind::kToolCall    ? "fc_"
                  : part.kind == AnswerPart::Kind::kReasoning ? "rs_"
                                                              : "msg_");
  if (part.kind == AnswerPart::Kind::kToolCall) item.call_id = NewId("call_");
  items_.push_back(std::move(item));
  open_ = true;
  return events_.opened ? events_.opened(items_.back()) : "";
}

std::string AnswerItems::Close() {
  if (!open_) return "";
  open_ = false;
  return events_.closed ? events_.closed(items_.back()) : "";
}

std::string AnswerItems::Tell(const std::vector<AnswerPart>& parts) {
  std::string told;
  for (const AnswerPart& part : parts) {
    const bool call = part.kind == AnswerPart::Kind::kToolCall;
    if (!open_ || call || items_.back().kind != part.kind) {
      told += Close();
      told += Open(part);
    }
    AnswerItem& item = items_.back();
    item.text += part.text;
    if (events_.grew) told += events_.grew(item, part.text);
    if (call) told += Close();
  }
  return told;
}

std::string AnswerItems::Push(std::string_view text) { return Tell(parts_.Push(text)); }

std::string AnswerItems::Flush() {
  std::string told = Tell(parts_.Flush());
  if (items_.empty()) told += Open({AnswerPart::Kind::kContent, ""});
  return told + Close();
}

bool AnswerItems::called() const {
  return std::any_of(items_.begin(), items_.end(),
                     [](const AnswerItem& item) { return item.kind == AnswerPart::Kind::kToolCall; });
}

int64_t ReasoningTokens(const AnswerForm& form, const Tokenizer& tokenizer, const std::vector<int32_t>& tokens) {
  if (!form.reasoning) return 0;
  AnswerParts parts(form);
  bool thought = form.begins_thinking;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::string bytes = tokenizer.BytesOf(tokens[i]);
    for (const AnswerPart& part : parts.Push(bytes.empty() ? tokenizer.TextOf(tokens[i]) : bytes)) {
      if (part.kind != AnswerPart::Kind::kReasoning) return thought ? static_cast<int64_t>(i) : 0;
      thought = true;
    }
  }
  return thought ? static_cast<int64_t>(tokens.size()) : 0;
}

std::vector<AnswerItem> ItemsOf(const AnswerForm& form, std::string_view text) {
  AnswerItems items(form);
  items.Push(text);
  items.Flush();
  return items.items();
}

}  // namespace duo::http
