// What a request of /v1/responses says, as a chat has it: its items as messages, its tools and its choice of one. Pure.
#pragma once

#include "absl/status/statusor.h"
#include "launcher/serve/http/api/base/body.h"

namespace duo::http {

// instructions and input. The items of one turn of the model's (thoughts, text, calls) are one message.
absl::StatusOr<Json> ResponseMessages(Body& body);

// null, or a list; what is no function is refused.
Json ResponseTools(Body& body);

// As chat's tool_choice; null: absent.
Json ResponseToolChoice(Body& body);

}  // namespace duo::http
