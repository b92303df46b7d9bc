// POST /v1/chat/completions: a conversation, put into the model's own form, and the next turn of it.
#pragma once

#include "launcher/serve/http/api/answers/answer.h"
#include "launcher/serve/http/api/answers/answer_fields.h"

namespace duo::http {

absl::StatusOr<Prepared> PrepareChat(Service& service, Body& body);

// The tokens of a conversation in the model's form, at whose end the model answers; `arguments` are further variables
// of its template, or null; tools is a list, or null.
absl::StatusOr<std::vector<int32_t>> EncodeChat(const Service& service, Json messages, const Json& tools,
                                                const Json* arguments, bool add_generation_prompt = true);

// What is asked of the model for a conversation of these tokens.
absl::StatusOr<AnswerRequest> ChatRequest(const Service& service, std::vector<int32_t> tokens,
                                          const AnswerFields& fields);

}  // namespace duo::http
