#include "launcher/serve/http/api/base/service.h"

namespace duo::http {

std::optional<Refusal> Service::Authenticate(const Request& request) const {
  const CallContext* context = calls;
  if (context == nullptr) return Refusal{503, "the model is loading; try again later", "loading"};
  // Whoever has a token may come in; what a call takes beyond that, the call checks.
  const absl::Status status = context->Authenticate(CallerOf(request), Right::kNumbers).status();
  if (status.ok()) return std::nullopt;
  return Refusal{401, "this server wants \"Authorization: Bearer TOKEN\" with a token that it knows",
                 "invalid_api_key"};
}

ErrorAnswer Service::Error(const absl::Status& status) const {
  const CallContext* context = calls;
  return ErrorOf(status, context == nullptr ? 0 : context->state.wait_seconds.load());
}

Caller CallerOf(const Request& request) { return {request.authorization, request.request_id, request.traceparent}; }

std::optional<Refusal> NotReady(const Service& service) {
  const CallContext* context = service.calls;
  if (context == nullptr) return Refusal{503, "the model is loading", "loading"};
  if (context->state.draining) return Refusal{503, "the server is draining", "draining"};
  return std::nullopt;
}

ErrorAnswer NotReadyError(const Refusal& why) {
  return {.status = why.status, .message = why.message, .param = "", .code = why.code, .retry_after = 5};
}

void Service::LogUnknown(const std::vector<std::string>& names) {
  constexpr size_t kMostLogged = 256, kLongestName = 64;
  std::lock_guard lock(mutex_);
  for (const std::string& name : names) {
    if (logged_.size() >= kMostLogged || !logged_.insert(name.substr(0, kLongestName)).second) continue;
    calls.load()->log->Event("a field is ignored", {{"field", name.substr(0, kLongestName)}});
  }
}

}  // namespace duo::http
