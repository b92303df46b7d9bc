// POST /v1/messages and /v1/messages/count_tokens: Anthropic's form of a chat: its blocks become messages, its answer
// is thoughts, texts and calls of tools.
#pragma once

#include "launcher/serve/http/api/answers/answer.h"

namespace duo::http {

absl::StatusOr<Prepared> PrepareMessage(Service& service, Body& body);
absl::StatusOr<Json> CountTokens(Service& service, Body& body);

}  // namespace duo::http
