#include "runtime/text/answer_parts.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

namespace duo {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kThink = "<think>", kThought = "</think>", kCall = "<tool_call>", kCalled = "</tool_call>",
                           kBlanks = " \t\r\n";
constexpr size_t kDeepestCall = 100;

std::string_view Trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

// Not deeper than a parser's stack.
bool IsShallow(std::string_view text) {
  size_t depth = 0, deepest = 0;
  for (const char c : text) {
    if (c == '{' || c == '[') deepest = std::max(deepest, ++depth);
    if ((c == '}' || c == ']') && depth > 0) --depth;
  }
  return deepest <= kDeepestCall;
}

// A call, where the text is one.
bool ParseCall(std::string_view text, AnswerPart* call) {
  if (!IsShallow(text)) return false;
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("name") || !json["name"].is_string()) return false;
  Json arguments = Json::object();
  for (const char* field : {"arguments", "parameters"}) {
    if (json.contains(field)) arguments = json[field];
  }
  if (arguments.is_string()) {
    if (!IsShallow(arguments.get_ref<const std::string&>())) return false;
    arguments = Json::parse(arguments.get<std::string>(), nullptr, false);
  }
  if (!arguments.is_object()) return false;
  *call = {AnswerPart::Kind::kToolCall, arguments.dump(-1, ' ', false, Json::error_handler_t::replace),
           json["name"].get<std::string>()};
  return true;
}

}  // namespace

AnswerParts::AnswerParts(const AnswerForm& form)
    : form_(form),
      plain_(!form.reasoning && form.tools == AnswerForm::Tools::kNone),
      place_(form.begins_thinking && form.reasoning ? Place::kThinking : Place::kStart) {}

void AnswerParts::Give(AnswerPart::Kind kind, std::string_view text) {
  if (text.empty()) return;
  if (!out_.empty() && out_.back().kind == kind) {
    out_.back().text += text;
  } else {
    out_.push_back({kind, std::string(text)});
  }
}

// How much of what is held, from its beginning, is neither the marker's nor white space before it.
size_t AnswerParts::Certain(std::string_view marker, bool ended) const {
  const std::string_view text = held_;
  size_t end = text.size();
  if (!ended) {
    for (size_t n = std::min(text.size(), marker.size() - 1); n > 0; --n) {
      if (text.substr(text.size() - n) == marker.substr(0, n)) {
        end -= n;
        break;
      }
    }
    const size_t last = text.substr(0, end).find_last_not_of(kBlanks);
    end = last == std::string_view::npos ? 0 : last + 1;
  }
  return end;
}

// Calls with semicolons between them, and nothing else.
bool AnswerParts::GiveObjects(std::string_view text) {
  std::vector<AnswerPart> calls;
  int attempts = 0;
  for (size_t begin = 0; begin < text.size();) {
    // The semicolon behind an object that is whole.
    size_t end = text.find(';', begin);
    AnswerPart call;
    while (!ParseCall(Trimmed(text.substr(begin, end == std::string_view::npos ? end : end - begin)), &call)) {
      if (end == std::string_view::npos || ++attempts > 64) return false;
      end = text.find(';', end + 1);
    }
    calls.push_back(std::move(call));
    if (end == std::string_view::npos) break;
    begin = end + 1;
  }
  for (AnswerPart& call : calls) out_.push_back(std::move(call));
  return !calls.empty();
}

// One step of reading; false where more text is needed.
bool AnswerParts::ReadOnce(bool ended) {
  if (trim_) {
    const size_t first = held_.find_first_not_of(kBlanks);
    if (first == std::string::npos) {
      // Blanks alone are no content of an answer that thinks or calls; of any other they are.
      if (ended && plain_) Give(AnswerPart::Kind::kContent, held_);
      if (ended) held_.clear();
      return false;
    }
    if (!plain_) held_.erase(0, first);
    trim_ = false;
  }
  switch (place_) {
    case Place::kStart: {
      if (form_.reasoning && held_.starts_with(kThink)) {
        held_.erase(0, kThink.size());
        place_ = Place::kThinking;
        trim_ = true;
        return true;
      }
      if (form_.reasoning && !ended && kThink.starts_with(held_)) return false;
      place_ = form_.tools == AnswerForm::Tools::kLlama3 && held_.starts_with('{') ? Place::kObjects : Place::kContent;
      return true;
    }
    case Place::kThinking: {
      const size_t end = held_.find(kThought);
      if (end != std::string::npos) {
        const size_t last = std::string_view(held_).substr(0, end).find_last_not_of(kBlanks);
        Give(AnswerPart::Kind::kReasoning, std::string_view(held_).substr(0, last == std::string::npos ? 0 : last + 1));
        held_.erase(0, end + kThought.size());
        place_ = Place::kStart;
        form_.reasoning = false;  // once an answer
        trim_ = true;
        return true;
      }
      const size_t certain = Certain(kThought, ended);
      Give(AnswerPart::Kind::kReasoning, std::string_view(held_).substr(0, certain));
      held_.erase(0, certain);
      return false;
    }
    case Place::kContent: {
      if (form_.tools != AnswerForm::Tools::kHermes) {
        Give(AnswerPart::Kind::kContent, held_);
        held_.clear();
        return false;
      }
      const size_t begin = held_.find(kCall);
      if (begin != std::string::npos) {
        const size_t last = std::string_view(held_).substr(0, begin).find_last_not_of(kBlanks);
        Give(AnswerPart::Kind::kContent, std::string_view(held_).substr(0, last == std::string::npos ? 0 : last + 1));
        held_.erase(0, begin);
        place_ = Place::kCall;
        return true;
      }
      const size_t certain = Certain(kCall, ended);
      Give(AnswerPart::Kind::kContent, std::string_view(held_).substr(0, certain));
      held_.erase(0, certain);
      return false;
    }
    case Place::kCall: {
      const size_t end = held_.find(kCalled);
      if (end == std::string::npos && !ended) return false;
      const std::string_view inside = std::string_view(held_).substr(
          kCall.size(), end == std::string::npos ? std::string_view::npos : end - kCall.size());
      const size_t size = end == std::string::npos ? held_.size() : end + kCalled.size();
      AnswerPart call;
      const bool is_call = ParseCall(Trimmed(inside), &call);
      if (is_call) {
        out_.push_back(std::move(call));
      } else {
        Give(AnswerPart::Kind::kContent, std::string_view(held_).substr(0, size));
      }
      held_.erase(0, size);
      place_ = Place::kContent;
      trim_ = is_call;
      return !held_.empty();
    }
    case Place::kObjects: {
      if (!ended) return false;
      if (!GiveObjects(held_)) Give(AnswerPart::Kind::kContent, held_);
      held_.clear();
      return false;
    }
  }
  return false;
}

void AnswerParts::Read(bool ended) {
  while (ReadOnce(ended)) {
  }
}

std::vector<AnswerPart> AnswerParts::Push(std::string_view text) {
  held_ += text;
  Read(false);
  return std::exchange(out_, {});
}

std::vector<AnswerPart> AnswerParts::Flush() {
  Read(true);
  return std::exchange(out_, {});
}

AnswerForm AnswerFormOf(std::string_view source) {
  AnswerForm form;
  const auto has = [&](std::string_view word) { return source.find(word) != std::string_view::npos; };
  form.reasoning = has(kThink) || has(kThought);
  if (has(kCall)) {
    form.tools = AnswerForm::Tools::kHermes;
  } else if (has("<|python_tag|>") || (has("ipython") && has("\"parameters\""))) {
    form.tools = AnswerForm::Tools::kLlama3;
  }
  return form;
}

}  // namespace duo
