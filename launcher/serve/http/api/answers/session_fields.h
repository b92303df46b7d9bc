// `"duo": {"session_id": NAME, "keep": BOOL}` of completions and chats: what is asked goes on behind a session's text,
// instead of behind a prompt that is sent again. keep: question and answer become part of the session.
#pragma once

#include "launcher/serve/http/api/answers/answer_fields.h"

namespace duo::http {

void ReadSession(Body& body, AnswerFields& fields);

// For forms that have no session's way: refused where one is named.
absl::Status NoSessionHere(const AnswerFields& fields);

// A completion on a session: `prompt`, one text or token ids, as gRPC's Ask has it. An answer of at most `fallback`
// tokens where its length is not said.
absl::StatusOr<AnswerRequest> PromptOnSession(const Service& service, const AnswerFields& fields, const Json* prompt,
                                              int64_t fallback);

// The next turn of a session that is a conversation: `messages` has it alone, a user's.
absl::StatusOr<AnswerRequest> TurnOnSession(const Service& service, const AnswerFields& fields, Json messages);

}  // namespace duo::http
