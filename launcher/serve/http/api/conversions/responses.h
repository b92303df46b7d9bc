// POST /v1/responses: OpenAI's newer form of a chat: its items become messages, its answer is thoughts, texts and calls
// of tools. Nothing is stored: previous_response_id is refused.
#pragma once

#include "launcher/serve/http/api/answers/answer.h"

namespace duo::http {

absl::StatusOr<Prepared> PrepareResponse(Service& service, Body& body);

}  // namespace duo::http
