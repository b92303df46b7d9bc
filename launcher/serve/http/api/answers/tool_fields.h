// What a chat request says of tools and of thinking, and how the model's turns carry them. Pure.
#pragma once

#include <functional>
#include <string>

#include "launcher/serve/http/api/base/body.h"
#include "launcher/serve/http/api/base/service.h"
#include "runtime/text/answer_parts.h"
#include "runtime/text/grammar/guide.h"

namespace duo::http {

struct ToolFields {
  Json tools;       // for the template; null: none
  AnswerForm form;  // how the answer is to be read
  Guide guide;      // where a call is asked for, whatever the model would say
};

// The fields tools and tool_choice as chat has them: tools is null or a list of {"type": "function", "function": {..}},
// choice null, "none", "auto", "required" or {"function": {"name": ..}}. Refused: tools of a model whose template has
// none that this server reads, a choice that names no tool.
ToolFields ReadToolFields(const Service& service, Body& body, const Json& tools, const Json& choice);

// The field tools of a form whose tools are not chat's, each as `function_of` has it as chat's function; null refuses
// it, with the words of what one must be. null: absent, or refused.
Json NestedTools(Body& body, const std::string& expected, const std::function<Json(const Json& tool)>& function_of);

// An answer that a guide makes has no thoughts before it, and is not guided twice. False: refused.
bool AdoptTools(const ToolFields& tools, Body& body, Guide& guide, AnswerForm& form);

// Whether the template has begun the answer's thinking.
bool EndsThinking(const Tokenizer& tokenizer, const std::vector<int32_t>& prompt);

// A call as OpenAI has it; index: in a stream.
Json ToolCallJson(const AnswerPart& call, const std::string& id);

}  // namespace duo::http
