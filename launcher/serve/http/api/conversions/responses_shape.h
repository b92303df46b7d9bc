// How an answer looks to a client of /v1/responses: an object with a list of items, or the events that it grows by.
#pragma once

#include "launcher/serve/http/api/answers/answer.h"
#include "launcher/serve/http/api/answers/answer_items.h"
#include "runtime/text/tokenizer.h"

namespace duo::http {

// base: the response without what comes with its answer.
AnswerShape ResponseShape(const Json& base, const AnswerForm& form, const Tokenizer& tokenizer);

}  // namespace duo::http
