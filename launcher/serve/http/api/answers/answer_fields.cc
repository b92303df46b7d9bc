#include "launcher/serve/http/api/answers/answer_fields.h"

#include <algorithm>
#include <limits>
#include <random>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/read_file.h"
#include "launcher/serve/http/api/answers/guide_fields.h"
#include "launcher/serve/http/api/answers/session_fields.h"
#include "launcher/terminal/sparse_json.h"

namespace duo::http {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 31;
constexpr int64_t kMostAnswers = 128;
constexpr size_t kMostStops = 16, kLongestStop = 256, kMostConfigBytes = 1 << 20, kLongestSalt = 1024, kLongestKey = 64;

// Told apart from other answers of temperature above 0 where the request names none.
uint64_t RandomSeed() {
  std::random_device random;
  return uint64_t{random()} << 32 | random();
}

void ReadStream(Body& body, AnswerFields& fields) {
  fields.stream = body.Bool("stream", false);
  const Json* options = body.Find("stream_options");
  if (options == nullptr) return;
  if (!options->is_object()) return body.Fail("stream_options", "stream_options must be an object");
  if (!fields.stream) return body.Fail("stream_options", "stream_options needs \"stream\": true");
  Body inner(*options);
  fields.include_usage = inner.Bool("include_usage", false);
  fields.continuous_usage = inner.Bool("continuous_usage_stats", false);
  if (!inner.status().ok()) body.Fail("stream_options", inner.status().message());
}

void ReadBiases(Body& body, SamplingRules& rules) {
  const Json* biases = body.Find("logit_bias");
  if (biases == nullptr) return;
  if (!biases->is_object()) return body.Fail("logit_bias", "logit_bias must be an object of token ids and numbers");
  for (const auto& [id, bias] : biases->items()) {
    int32_t token = 0;
    if (!absl::SimpleAtoi(id, &token) || !bias.is_number()) {
      return body.Fail("logit_bias", absl::StrCat("logit_bias must be an object of token ids and numbers, found \"",
                                                  id.substr(0, 20), "\": ", Shown(bias)));
    }
    rules.logit_bias.push_back({token, bias.get<float>()});
  }
}

void ReadRules(const Service& service, Body& body, SamplingRules& rules) {
  const SamplingDefaults& defaults = service.sampling;
  rules.top_k =
      static_cast<int32_t>(body.Int("top_k", -1, std::numeric_limits<int32_t>::max()).value_or(defaults.top_k));
  if (rules.top_k < 0) rules.top_k = 0;
  rules.min_p = static_cast<float>(body.Number("min_p", 0, 1).value_or(defaults.min_p));
  rules.presence_penalty = static_cast<float>(body.Number("presence_penalty", -2, 2).value_or(0));
  rules.frequency_penalty = static_cast<float>(body.Number("frequency_penalty", -2, 2).value_or(0));
  rules.repetition_penalty =
      static_cast<float>(body.Number("repetition_penalty", 0, 100).value_or(defaults.repetition_penalty));
  ReadBiases(body, rules);
  rules.stop_tokens = body.Tokens("stop_token_ids");
  rules.min_new_tokens = body.Int("min_tokens", 0, kMostTokens).value_or(0);
  const absl::Status checked = CheckRules(rules, service.calls.load()->vocab);
  if (checked.ok()) return;
  const absl::string_view sentence = checked.message();  // it begins with the field's name
  body.Fail(sentence.substr(0, sentence.find(' ')), sentence);
}

// What is not there yet, with the values that ask for nothing.
void RefuseWhatIsNotThere(Body& body) {
  body.NotThere("best_of", {1});
  body.NotThere("use_beam_search");
  body.NotThere("prompt_logprobs");
  body.NotThere("include_stop_str_in_output");
  body.NotThere("skip_special_tokens", {true});
  body.NotThere("truncate_prompt_tokens");
}

}  // namespace

std::vector<std::string> ReadStops(Body& body, const char* name) {
  std::vector<std::string> stops = body.Strings(name, kMostStops);
  std::erase(stops, "");
  for (const std::string& stop : stops) {
    if (stop.size() > kLongestStop) body.Fail(name, absl::StrCat("a stop text has at most ", kLongestStop, " bytes"));
  }
  return stops;
}

AnswerFields ReadAnswerFields(const Service& service, Body& body) {
  AnswerFields fields;
  AskRequest& ask = fields.ask;
  ask.alone = true;
  body.String("model");
  ask.temperature = static_cast<float>(body.Number("temperature", 0, 100).value_or(service.sampling.temperature));
  ask.top_p = static_cast<float>(body.Number("top_p", 0, 1).value_or(service.sampling.top_p));
  if (ask.top_p <= 0) body.Fail("top_p", "top_p must be above 0 and at most 1");
  const std::optional<int64_t> seed =
      body.Int("seed", std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
  ask.seed = seed.has_value() ? static_cast<uint64_t>(*seed) : RandomSeed();
  ask.stop = ReadStops(body, "stop");
  ReadRules(service, body, ask.rules);
  ask.ignore_end_tokens = body.Bool("ignore_eos", false);
  ask.priority = static_cast<int32_t>(body.Int("priority", -1000, 1000).value_or(0));
  ask.guide = ReadGuide(body);
  ask.cache_salt = body.String("cache_salt").value_or("");
  if (ask.cache_salt.size() > kLongestSalt) {
    body.Fail("cache_salt", absl::StrCat("cache_salt has at most ", kLongestSalt, " bytes"));
  }
  ask.cache_key = body.String("prompt_cache_key").value_or("").substr(0, kLongestKey);
  ReadSession(body, fields);
  fields.n = static_cast<int>(body.Int("n", 1, std::min<int64_t>(kMostAnswers, service.limits.queue)).value_or(1));
  fields.max_tokens = body.Int("max_tokens", 1, kMostTokens);
  if (const std::optional<int64_t> most = body.Int("max_completion_tokens", 1, kMostTokens)) fields.max_tokens = most;
  ReadStream(body, fields);
  RefuseWhatIsNotThere(body);
  body.Ignore({"user", "safety_identifier", "store", "metadata", "service_tier", "request_id", "prompt_cache_retention",
               "session_id", "spaces_between_special_tokens", "parallel_tool_calls", "verbosity", "reasoning_effort",
               "prediction"});
  return fields;
}

absl::Status CheckNewTokens(const Service& service, int64_t asked) {
  if (asked <= service.limits.new_tokens) return absl::OkStatus();
  return FieldError("max_tokens", absl::StrFormat("an answer on this server has at most %d tokens (--max-new-tokens), "
                                                  "%d were asked for",
                                                  service.limits.new_tokens, asked));
}

absl::StatusOr<int64_t> NewTokens(const Service& service, int64_t prompt_tokens, const AnswerFields& fields,
                                  int64_t fallback, const char* param) {
  const ServiceLimits& limits = service.limits;
  if (prompt_tokens == 0) return FieldError(param, absl::StrCat(param, " has no tokens"));
  if (prompt_tokens >= limits.window) {
    return FieldError(
        param,
        absl::StrFormat("This model's maximum context length is %d tokens. However, your %s has %d tokens, "
                        "and an answer needs at least one. Please reduce its length.",
                        limits.window, param, prompt_tokens),
        "context_length_exceeded");
  }
  const int64_t room = limits.window - prompt_tokens;
  const int64_t asked = fields.max_tokens.value_or(0);
  if (asked > room) {
    return FieldError(
        "max_tokens",
        absl::StrFormat("This model's maximum context length is %d tokens. However, you requested %d tokens "
                        "(%d in the %s, %d in the answer). Please reduce one of them.",
                        limits.window, prompt_tokens + asked, prompt_tokens, param, asked),
        "context_length_exceeded");
  }
  if (absl::Status s = CheckNewTokens(service, asked); !s.ok()) return s;
  if (prompt_tokens + std::max<int64_t>(asked, 1) > limits.kv_tokens) {  // no waiting would help
    return absl::ResourceExhaustedError(
        absl::StrFormat("the %s has %d tokens and its answer up to %d, and this server's cache holds %d", param,
                        prompt_tokens, std::max<int64_t>(asked, 1), limits.kv_tokens));
  }
  if (asked > 0) return asked;
  const int64_t most = std::min({room, limits.new_tokens, limits.kv_tokens - prompt_tokens});
  return fallback == 0 ? most : std::min(most, fallback);
}

SamplingDefaults ReadSamplingDefaults(const std::string& model_dir) {
  SamplingDefaults defaults;
  const absl::StatusOr<std::string> text = ReadFile(model_dir + "/generation_config.json", kMostConfigBytes);
  if (!text.ok()) return defaults;
  const absl::StatusOr<Json> config = ParseBody(*text);
  if (!config.ok()) return defaults;
  Body body(*config);
  defaults.temperature = body.Number("temperature", 0, 100).value_or(defaults.temperature);
  defaults.top_k = static_cast<int32_t>(body.Int("top_k", 0, 1 << 30).value_or(0));
  defaults.min_p = body.Number("min_p", 0, 1).value_or(0);
  defaults.repetition_penalty = body.Number("repetition_penalty", 0.01, 100).value_or(1);
  defaults.top_p = body.Number("top_p", 1e-6, 1).value_or(defaults.top_p);
  return defaults;
}

namespace {

Json UsageJson(int64_t prompt, int64_t completion, int64_t cached) {
  return {{"prompt_tokens", prompt},
          {"completion_tokens", completion},
          {"total_tokens", prompt + completion},
          {"prompt_tokens_details", {{"cached_tokens", cached}}}};
}

}  // namespace

AnswerShape StreamShape(const Json& base, const AnswerFields& fields) {
  AnswerShape shape;
  shape.end = [base, usage = fields.include_usage](const std::vector<Choice>& choices) {
    if (!usage) return std::string(kDone);
    Json json = base;
    json["choices"] = Json::array();
    AddUsage(choices, &json);
    return Event(json) + kDone;
  };
  shape.error = [](const ErrorAnswer& error) { return absl::StrCat("data: ", ErrorBody(error), "\n\n", kDone); };
  return shape;
}

Json UsageJson(const Usage& usage) {
  return UsageJson(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens);
}
void AddUsage(const std::vector<Choice>& choices, Json* json) {
  (*json)["usage"] = UsageJson(UsageOf(choices));
  for (const Choice& choice : choices) {  // of several prompts the first that had something
    if (choice.cached.tokens == 0) continue;
    const CachedText& cached = choice.cached;
    (*json)["duo"] = {{"session", cached.session.empty() ? Json() : Json(cached.session)},
                      {"source", cached.source},
                      {"restored_bytes", cached.restored_bytes},
                      {"refed_tokens", cached.refed_tokens}};
    break;
  }
  for (const Choice& choice : choices) {  // likewise
    if (!choice.stats.decode.sparse()) continue;
    (*json)["duo"]["sparse"] = WrittenSparselyJson(choice.stats.decode);
    break;
  }
}

Json UsageJson(const Choice& c) { return UsageJson(c.prompt_tokens, c.new_tokens, c.cached_tokens); }

}  // namespace duo::http
