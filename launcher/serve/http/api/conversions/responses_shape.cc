#include "launcher/serve/http/api/conversions/responses_shape.h"

#include <memory>

#include "absl/strings/str_cat.h"

namespace duo::http {
namespace {

using Kind = AnswerPart::Kind;

Json TextPart(const std::string& text) {
  return {{"type", "output_text"}, {"text", text}, {"annotations", Json::array()}, {"logprobs", Json::array()}};
}
Json ThoughtPart(const std::string& text) { return {{"type", "reasoning_text"}, {"text", text}}; }
Json PartOf(const AnswerItem& item, const std::string& text) {
  return item.kind == Kind::kReasoning ? ThoughtPart(text) : TextPart(text);
}

// begun: it is still empty.
Json ItemJson(const AnswerItem& item, const char* status, bool begun = false) {
  const Json content = begun ? Json::array() : Json::array({PartOf(item, item.text)});
  switch (item.kind) {
    case Kind::kReasoning:
      return {
          {"type", "reasoning"}, {"id", item.id}, {"summary", Json::array()}, {"content", content}, {"status", status}};
    case Kind::kContent:
      return {{"type", "message"}, {"id", item.id}, {"status", status}, {"role", "assistant"}, {"content", content}};
    case Kind::kToolCall:
      return {{"type", "function_call"}, {"id", item.id},    {"call_id", item.call_id},
              {"name", item.name},       {"status", status}, {"arguments", begun ? "" : item.text}};
  }
  return Json();
}

// The last one may have been cut.
const char* StatusOf(const AnswerItem& item, const std::vector<AnswerItem>& items, bool cut) {
  return cut && item.index + 1 == std::ssize(items) ? "incomplete" : "completed";
}

Json WholeJson(const Json& base, const Choice& choice, const std::vector<AnswerItem>& items, int64_t thought) {
  const bool cut = choice.finish == "length";
  Json json = base;
  json["status"] = cut ? "incomplete" : "completed";
  if (cut) json["incomplete_details"] = {{"reason", "max_output_tokens"}};
  json["output"] = Json::array();
  for (const AnswerItem& item : items) json["output"].push_back(ItemJson(item, StatusOf(item, items, cut)));
  json["usage"] = {{"input_tokens", choice.prompt_tokens},
                   {"input_tokens_details", {{"cached_tokens", choice.cached_tokens}, {"cache_write_tokens", 0}}},
                   {"output_tokens", choice.new_tokens},
                   {"output_tokens_details", {{"reasoning_tokens", thought}}},
                   {"total_tokens", choice.prompt_tokens + choice.new_tokens}};
  return json;
}

// The events of one stream, numbered from its first.
class Stream {
 public:
  Stream(Json base, const AnswerForm& form)
      : base_(std::move(base)),
        items_(form, {[this](const AnswerItem& item) { return Opened(item); },
                      [this](const AnswerItem& item, const std::string& delta) { return Grew(item, delta); },
                      [this](const AnswerItem& item) { return Closed(item); }}) {}

  std::string Begin() {
    const std::string created = Event("response.created", {{"response", base_}});
    return created + Event("response.in_progress", {{"response", base_}});
  }
  std::string Push(const std::string& text) { return items_.Push(text); }
  std::string End(const Choice& choice, int64_t thought) {
    cut_ = choice.finish == "length";
    const std::string items = items_.Flush();
    return items + Event(cut_ ? "response.incomplete" : "response.completed",
                         {{"response", WholeJson(base_, choice, items_.items(), thought)}});
  }
  std::string Error(const ErrorAnswer& error) {
    return Event("error", {{"code", error.code}, {"message", error.message}, {"param", error.param}});
  }

 private:
  std::string Event(const std::string& type, const Json& fields) {
    Json json = {{"type", type}, {"sequence_number", number_++}};
    json.update(fields);
    return NamedEvent(type, json);
  }
  // Where in the response it is; a call has no parts.
  static Json At(const AnswerItem& item, const Json& more) {
    Json json = {{"item_id", item.id}, {"output_index", item.index}};
    if (item.kind != Kind::kToolCall) json["content_index"] = 0;
    json.update(more);
    return json;
  }
  static const char* NameOf(const AnswerItem& item) {
    if (item.kind == Kind::kToolCall) return "response.function_call_arguments";
    return item.kind == Kind::kReasoning ? "response.reasoning_text" : "response.output_text";
  }

  std::string Opened(const AnswerItem& item) {
    const Json begun = ItemJson(item, "in_progress", /*begun=*/true);
    std::string added = Event("response.output_item.added", {{"output_index", item.index}, {"item", begun}});
    if (item.kind == Kind::kToolCall) return added;
    return added + Event("response.content_part.added", At(item, {{"part", PartOf(item, "")}}));
  }
  std::string Grew(const AnswerItem& item, const std::string& delta) {
    Json fields = At(item, {{"delta", delta}});
    if (item.kind == Kind::kContent) fields["logprobs"] = Json::array();
    return Event(absl::StrCat(NameOf(item), ".delta"), fields);
  }
  std::string Closed(const AnswerItem& item) {
    Json fields = At(item, {{item.kind == Kind::kToolCall ? "arguments" : "text", item.text}});
    if (item.kind == Kind::kContent) fields["logprobs"] = Json::array();
    if (item.kind == Kind::kToolCall) fields["name"] = item.name;
    std::string events = Event(absl::StrCat(NameOf(item), ".done"), fields);
    if (item.kind != Kind::kToolCall) {
      events += Event("response.content_part.done", At(item, {{"part", PartOf(item, item.text)}}));
    }
    const Json whole = ItemJson(item, StatusOf(item, items_.items(), cut_));
    return events + Event("response.output_item.done", {{"output_index", item.index}, {"item", whole}});
  }

  const Json base_;
  int64_t number_ = 0;
  bool cut_ = false;
  AnswerItems items_;
};

}  // namespace

AnswerShape ResponseShape(const Json& base, const AnswerForm& form, const Tokenizer& tokenizer) {
  const auto stream = std::make_shared<Stream>(base, form);
  const auto thought = [form, &tokenizer](const Choice& choice) {
    return ReasoningTokens(form, tokenizer, choice.tokens);
  };
  AnswerShape shape;
  shape.piece = [stream](const Choice&, const AskUpdate& grown, bool first) {
    const std::string begun = first ? stream->Begin() : "";
    return begun + stream->Push(grown.text);
  };
  shape.finish = [stream, thought](const Choice& choice, const AskUpdate&, bool first) {
    const std::string begun = first ? stream->Begin() : "";
    return begun + stream->End(choice, thought(choice));
  };
  shape.end = [](const std::vector<Choice>&) { return std::string(); };
  shape.error = [stream](const ErrorAnswer& error) { return stream->Error(error); };
  shape.whole = [base, form, thought](const std::vector<Choice>& choices) {
    return WholeJson(base, choices[0], ItemsOf(form, choices[0].text), thought(choices[0]));
  };
  return shape;
}

}  // namespace duo::http
