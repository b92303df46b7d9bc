// What a request of /v1/messages says, as a chat has it: system and messages, tools and the choice of one. Pure.
#pragma once

#include "absl/status/statusor.h"
#include "launcher/serve/http/api/base/body.h"

namespace duo::http {

// Blocks of a message become its text, its thoughts, its calls; results of tools are messages of their own.
absl::StatusOr<Json> MessageTurns(Body& body);

// null, or a list; tools that the server would have to run are refused.
Json MessageTools(Body& body);

// As chat's tool_choice; null: absent.
Json MessageToolChoice(Body& body);

}  // namespace duo::http
