// What a request says that its answer is to be: response_format as OpenAI has it, and vLLM's guided_* and
// structured_outputs. Pure.
#pragma once

#include "launcher/serve/http/api/body.h"
#include "runtime/text/grammar/guide.h"

namespace duo::http {

Guide ReadGuide(Body& body);

}  // namespace duo::http
