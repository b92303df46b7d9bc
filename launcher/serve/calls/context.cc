#include "launcher/serve/calls/context.h"

#include "absl/strings/str_cat.h"
#include "runtime/scheduler/busy.h"

namespace duo {

absl::Status QueueFull() { return Busy("the server's queue of calls is full; try again later"); }

absl::Status CallContext::Authenticate(const Caller& caller) const {
  if (bearer_tokens->empty() || bearer_tokens->Allows(caller.authorization)) return absl::OkStatus();
  return absl::UnauthenticatedError(
      "this server wants \"authorization: Bearer TOKEN\" metadata with a token that it knows");
}

absl::Status CallContext::CheckTokens(const std::vector<int32_t>& tokens) const {
  for (int32_t token : tokens) {
    if (token >= 0 && token < vocab) continue;
    return absl::InvalidArgumentError(absl::StrCat("token ", token, " is not in the vocabulary of ", vocab, " tokens"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> CallContext::Encode(std::string_view text, bool special) const {
  return tokenizer->Encode(text, EncodeOptions{.parse_special = special, .add_special_tokens = false});
}

void CallContext::Count(const char* method, const absl::Status& status) {
  const std::string code = status.ok() ? "OK" : absl::StatusCodeToString(status.code());
  ++(status.ok() ? calls : refused);
  metrics->CountCall(method, code);
  if (status.ok()) return;
  log->Event("call refused", {{"method", method}, {"code", code}, {"message", std::string(status.message())}});
}

}  // namespace duo
