// What a request says that its answer is to be: response_format as OpenAI has it, and vLLM's guided_* and
// structured_outputs. Pure.
#pragma once

#include "launcher/serve/http/api/base/body.h"
#include "runtime/text/grammar/guide.h"

namespace duo::http {

Guide ReadGuide(Body& body);

// The value of response_format, or of another field that says the same: type text, json_object, or json_schema with a
// schema beside it or in json_schema.
void ReadResponseFormat(Body& body, const Json& format, Guide* guide, const char* field);

}  // namespace duo::http
