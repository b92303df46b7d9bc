// Errors as OpenAI's clients know them: {"error": {message, type, param, code}} with an HTTP code that tells a client
// whether to try again. Pure functions; any thread.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "launcher/serve/http/wire/exchange.h"

namespace duo::http {

struct ErrorAnswer {
  int status = 500;
  std::string message, param, code;
  double retry_after = 0;  // seconds; 0: says nothing
  bool never = false;      // no retry can succeed
};

// INVALID_ARGUMENT that names the field it is about.
absl::Status FieldError(absl::string_view param, absl::string_view message, absl::string_view code = "");

// What `status` is over HTTP. wait_seconds: the engine's prediction of when there is room.
ErrorAnswer ErrorOf(const absl::Status& status, double wait_seconds);

// The object itself, and the type that goes with an HTTP code.
std::string ErrorBody(const ErrorAnswer& error);
std::string ErrorBody(const Refusal& refusal);
const char* ErrorType(int status);

void Fail(Exchange& exchange, const ErrorAnswer& error);

}  // namespace duo::http
