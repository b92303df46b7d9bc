#include "launcher/serve/http/api/base/errors.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "runtime/scheduler/busy.h"

namespace duo::http {
namespace {

constexpr char kParam[] = "duo/param", kCode[] = "duo/code";
// Clients of OpenAI's library give up where they are told to wait for more than two minutes.
constexpr double kShortestWait = 1, kLongestWait = 120;

std::string Payload(const absl::Status& status, const char* name) {
  const auto payload = status.GetPayload(name);
  return payload.has_value() ? std::string(*payload) : "";
}

int CodeOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAborted:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return IsBusy(status) ? 429 : 413;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kUnimplemented:
      return 501;
    default:
      return 500;
  }
}

}  // namespace

absl::Status FieldError(absl::string_view param, absl::string_view message, absl::string_view code) {
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(kParam, absl::Cord(param));
  if (!code.empty()) status.SetPayload(kCode, absl::Cord(code));
  return status;
}

ErrorAnswer ErrorOf(const absl::Status& status, double wait_seconds) {
  ErrorAnswer error;
  error.status = CodeOf(status);
  error.message = std::string(status.message());
  error.param = Payload(status, kParam);
  error.code = Payload(status, kCode);
  if (error.status == 429 || error.status == 503) {
    error.retry_after = std::clamp(std::ceil(wait_seconds), kShortestWait, kLongestWait);
  }
  error.never = error.status == 413;
  if (!error.code.empty()) return error;
  if (error.status == 401) error.code = "invalid_api_key";
  if (error.status == 413) error.code = "kv_capacity_exceeded";
  if (error.status == 429) error.code = "queue_full";
  return error;
}

const char* ErrorType(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 409:
      return "conflict_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "unavailable_error";
  }
  return status >= 500 ? "server_error" : "invalid_request_error";
}

std::string ErrorBody(const ErrorAnswer& error) {
  nlohmann::ordered_json body;
  body["error"] = {
      {"message", error.message}, {"type", ErrorType(error.status)}, {"param", nullptr}, {"code", nullptr}};
  if (!error.param.empty()) body["error"]["param"] = error.param;
  if (!error.code.empty()) body["error"]["code"] = error.code;
  return body.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::string ErrorBody(const Refusal& refusal) {
  return ErrorBody(
      ErrorAnswer{.status = refusal.status, .message = refusal.message, .param = "", .code = refusal.code});
}

void Fail(Exchange& exchange, const ErrorAnswer& error) {
  Fields more;
  if (error.status == 401) more.emplace_back("WWW-Authenticate", "Bearer");
  if (error.retry_after > 0) more.emplace_back("Retry-After", absl::StrCat(static_cast<int64_t>(error.retry_after)));
  if (error.never) more.emplace_back("x-should-retry", "false");
  exchange.Answer(error.status, "application/json", ErrorBody(error), more);
}

}  // namespace duo::http
