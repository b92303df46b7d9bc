// POST /tokenize and /detokenize, GET /tokenizer_info: the model's tokenizer for clients that have none, in the form
// that vLLM has given it.
#pragma once

#include "launcher/serve/http/api/base/body.h"
#include "launcher/serve/http/api/base/service.h"

namespace duo::http {

absl::StatusOr<Json> TokenizeText(Service& service, Body& body);
absl::StatusOr<Json> DetokenizeTokens(Service& service, Body& body);

// What of the model's tokenizer_config.json such clients ask for.
Json ReadTokenizerInfo(const std::string& model_dir);

}  // namespace duo::http
