// What a chat request says of tools and of thinking, and how the model's turns carry them. Pure.
#pragma once

#include <string>

#include "launcher/serve/http/api/body.h"
#include "launcher/serve/http/api/service.h"
#include "runtime/text/answer_parts.h"
#include "runtime/text/grammar/guide.h"

namespace duo::http {

struct ToolFields {
  const Json* tools = nullptr;  // for the template; null: none
  AnswerForm form;              // how the answer is to be read
  Guide guide;                  // where a call is asked for, whatever the model would say
};

// Refused: tools of a model whose template has none that this server reads, a choice that names no tool.
ToolFields ReadToolFields(const Service& service, Body& body);

// A call as OpenAI has it; index: in a stream.
Json ToolCallJson(const AnswerPart& call, const std::string& id);

}  // namespace duo::http
