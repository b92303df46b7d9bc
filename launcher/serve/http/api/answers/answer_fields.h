// The fields that every route which answers has: how an answer is drawn, how long it may be, where it stops. What is
// not there yet and would change the answer is named by its refusal.
#pragma once

#include <optional>

#include "launcher/serve/http/api/answers/answer.h"

namespace duo::http {

struct AnswerFields {
  AskRequest ask;
  std::optional<int64_t> max_tokens;
  int n = 1;
  bool stream = false, include_usage = false, continuous_usage = false;
};

AnswerFields ReadAnswerFields(const Service& service, Body& body);

// The texts that an answer ends before, from a field of this name.
std::vector<std::string> ReadStops(Body& body, const char* name);

// How long the answer to a prompt of so many tokens may be: as long as it was asked to be, or else at most `fallback`;
// 0: what there is room for. Refused, with both numbers, where it cannot be.
absl::StatusOr<int64_t> NewTokens(const Service& service, int64_t prompt_tokens, const AnswerFields& fields,
                                  int64_t fallback, const char* param);

// Refused: more tokens than an answer on this server has.
absl::Status CheckNewTokens(const Service& service, int64_t asked);

// What of the model's generation_config.json is a default here.
SamplingDefaults ReadSamplingDefaults(const std::string& model_dir);

// How streams of completions and of chats end, after the last choice and in an error: `base` is what their events have
// in common.
AnswerShape StreamShape(const Json& base, const AnswerFields& fields);

Json UsageJson(const Usage& usage);
Json UsageJson(const Choice& choice);
// usage, and, where something of a prompt was in the cache, duo: what that was.
void AddUsage(const std::vector<Choice>& choices, Json* json);

}  // namespace duo::http
