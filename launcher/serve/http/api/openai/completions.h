// POST /v1/completions: texts or token ids, one or many, continued as they are.
#pragma once

#include "launcher/serve/http/api/answers/answer.h"

namespace duo::http {

absl::StatusOr<Prepared> PrepareCompletion(Service& service, Body& body);

}  // namespace duo::http
