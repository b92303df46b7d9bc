#include "launcher/serve/http/api/openai/completions.h"

#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "launcher/serve/http/api/answers/answer_fields.h"
#include "launcher/serve/http/api/answers/logprob_json.h"
#include "launcher/serve/http/api/answers/session_fields.h"

namespace duo::http {
namespace {

constexpr int64_t kDefaultNewTokens = 16;  // OpenAI's
constexpr size_t kMostPrompts = 1024;
constexpr size_t kMostEchoed = 4 << 20;  // tokens of prompts that an answer repeats, as often as it does

absl::Status BadPrompt(const Json& found) {
  return FieldError("prompt",
                    absl::StrCat("prompt must be a string, a list of strings, a list of token ids or a list of "
                                 "such lists, found ",
                                 Shown(found)));
}

// A text, or token ids. A text may spell special tokens: who sends a whole prompt has put it together.
absl::StatusOr<std::vector<int32_t>> ReadPrompt(const CallContext& context, const Json& prompt, bool special) {
  if (prompt.is_string()) {
    return context.tokenizer->Encode(prompt.get_ref<const std::string&>(),
                                     EncodeOptions{.parse_special = true, .add_special_tokens = special});
  }
  std::optional<std::vector<int32_t>> tokens = TokensOf(prompt);
  if (!tokens.has_value()) return BadPrompt(prompt);
  return *std::move(tokens);
}

absl::StatusOr<std::vector<std::vector<int32_t>>> ReadPrompts(const CallContext& context, Body& body) {
  const Json* prompt = body.Find("prompt");
  const bool special = body.Bool("add_special_tokens", true);
  if (!body.status().ok()) return body.status();
  if (prompt == nullptr) return FieldError("prompt", "prompt is missing");
  if (prompt->is_array() && prompt->empty()) return BadPrompt(*prompt);
  std::vector<const Json*> each = {prompt};
  if (prompt->is_array() && !prompt->front().is_number()) {
    if (prompt->size() > kMostPrompts) {
      return FieldError("prompt", absl::StrCat("at most ", kMostPrompts, " prompts at once, found ", prompt->size()));
    }
    each.clear();
    for (const Json& one : *prompt) each.push_back(&one);
  }
  std::vector<std::vector<int32_t>> prompts;
  for (const Json* one : each) {
    absl::StatusOr<std::vector<int32_t>> tokens = ReadPrompt(context, *one, special);
    if (!tokens.ok()) return tokens.status();
    prompts.push_back(*std::move(tokens));
  }
  return prompts;
}

Json ChoiceJson(const Choice& choice, const std::string& text, Json logprobs, bool finished) {
  Json json = {{"index", choice.index}, {"text", text}, {"logprobs", std::move(logprobs)}, {"finish_reason", nullptr}};
  if (finished) json["finish_reason"] = choice.finish;
  return json;
}

// What a completion has besides an answer's fields.
struct CompletionFields {
  bool echo = false, logprobs = false;
};

CompletionFields ReadCompletionFields(Body& body, AnswerFields& fields) {
  CompletionFields own;
  own.echo = body.Bool("echo", false);
  const std::optional<int64_t> best = body.Int("logprobs", 0, kMostBest);
  own.logprobs = best.has_value();
  if (own.logprobs) fields.ask.rules.scores = static_cast<int32_t>(*best);
  if (own.echo && own.logprobs) fields.ask.rules.prompt_scores = fields.ask.rules.scores;
  return own;
}

AnswerShape CompletionShape(const Service& service, const AnswerFields& fields, const CompletionFields& own) {
  const Tokenizer* tokenizer = service.calls.load()->tokenizer;
  const Json base = {
      {"id", NewId("cmpl-")}, {"object", "text_completion"}, {"created", UnixTime()}, {"model", service.model}};
  const auto offsets = std::make_shared<std::map<int, int64_t>>();  // by choice: characters whose tokens were told
  // A prompt that is echoed comes with the first token, before it.
  const auto chunk = [=](const Choice& choice, const AskUpdate& grown, bool first, bool finished) {
    Json json = base;
    Json logprobs;
    const bool echo = first && own.echo;
    if (own.logprobs && (echo || !grown.scores.empty())) {
      const std::vector<int32_t> prompt = echo ? choice.prompt : std::vector<int32_t>();
      int64_t& offset = (*offsets)[choice.index];
      logprobs = CompletionLogprobs(*tokenizer, prompt, choice.prompt_scores, grown.scores, &offset);
    }
    const std::string before = echo ? tokenizer->Decode(choice.prompt) : "";
    json["choices"] = Json::array({ChoiceJson(choice, before + grown.text, std::move(logprobs), finished)});
    if (fields.continuous_usage) json["usage"] = UsageJson(choice);
    return Event(json);
  };
  AnswerShape shape = StreamShape(base, fields);
  shape.piece = [chunk](const Choice& c, const AskUpdate& grown, bool first) { return chunk(c, grown, first, false); };
  shape.finish = [chunk](const Choice& c, const AskUpdate& rest, bool first) { return chunk(c, rest, first, true); };
  shape.whole = [base, own, tokenizer](const std::vector<Choice>& choices) {
    Json json = base;
    json["choices"] = Json::array();
    for (const Choice& choice : choices) {
      const std::string before = own.echo ? tokenizer->Decode(choice.prompt) : "";
      Json logprobs;
      int64_t offset = 0;
      if (own.logprobs) {
        logprobs = CompletionLogprobs(*tokenizer, choice.prompt, choice.prompt_scores, choice.scores, &offset);
      }
      json["choices"].push_back(ChoiceJson(choice, before + choice.text, std::move(logprobs), true));
    }
    AddUsage(choices, &json);
    return json;
  };
  return shape;
}

}  // namespace

absl::StatusOr<Prepared> PrepareCompletion(Service& service, Body& body) {
  const CallContext& context = *service.calls;
  AnswerFields fields = ReadAnswerFields(service, body);
  const CompletionFields own = ReadCompletionFields(body, fields);
  body.NotThere("suffix");
  body.NotThere("top_logprobs", {0});
  if (!body.status().ok()) return body.status();
  if (!fields.ask.session_id.empty()) {
    if (own.echo) return FieldError("echo", "a session's text is not repeated: echo must be false with duo.session_id");
    absl::StatusOr<AnswerRequest> request = PromptOnSession(service, fields, body.Find("prompt"), kDefaultNewTokens);
    if (!request.ok()) return request.status();
    return Prepared{*std::move(request), CompletionShape(service, fields, own)};
  }
  absl::StatusOr<std::vector<std::vector<int32_t>>> prompts = ReadPrompts(context, body);
  if (!prompts.ok()) return prompts.status();
  Prepared prepared;
  prepared.request.ask = fields.ask;
  prepared.request.stream = fields.stream;
  prepared.request.n = fields.n;
  prepared.request.echo = own.echo;
  if (prompts->size() * static_cast<size_t>(fields.n) > kMostPrompts) {
    return FieldError("n", absl::StrCat("at most ", kMostPrompts, " answers at once"));
  }
  size_t echoed = 0;
  for (std::vector<int32_t>& tokens : *prompts) {
    echoed += own.echo ? tokens.size() * static_cast<size_t>(fields.n) : 0;
    if (echoed > kMostEchoed) {
      return FieldError("echo", absl::StrCat("echo repeats at most ", kMostEchoed, " tokens, for all of n answers"));
    }
    if (absl::Status s = context.CheckTokens(tokens); !s.ok()) return FieldError("prompt", s.message());
    const absl::StatusOr<int64_t> most =
        NewTokens(service, static_cast<int64_t>(tokens.size()), fields, kDefaultNewTokens, "prompt");
    if (!most.ok()) return most.status();
    prepared.request.ask.max_new_tokens = std::max(prepared.request.ask.max_new_tokens, *most);
    prepared.request.prompts.push_back(std::move(tokens));
  }
  prepared.shape = CompletionShape(service, fields, own);
  return prepared;
}

}  // namespace duo::http
