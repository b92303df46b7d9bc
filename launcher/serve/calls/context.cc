#include "launcher/serve/calls/context.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/scheduler/busy.h"

namespace duo {
namespace {

constexpr int32_t kMostPriority = 1000;

}  // namespace

absl::Status QueueFull() { return Busy("the server's queue of calls is full; try again later"); }

absl::StatusOr<Identity> CallContext::Authenticate(const Caller& caller, Right right) const {
  if (!bearer_tokens->on()) return Identity{.role = Role::kAdmin};
  const std::shared_ptr<const TokenSet> tokens = bearer_tokens->tokens();
  const Identity* who = tokens->Find(caller.authorization);
  if (who == nullptr) {
    return absl::UnauthenticatedError(
        "this server wants \"authorization: Bearer TOKEN\" metadata with a token that it knows");
  }
  if (Has(who->role, right)) return *who;
  return absl::PermissionDeniedError(absl::StrCat("the token of ", who->owner, " has the role ", Name(who->role),
                                                  "; this takes the role ",
                                                  right == Right::kServer ? "admin" : "user or admin"));
}

absl::Status CallContext::CheckOwner(const Identity& who, const std::string& session_id) const {
  if (who.role == Role::kAdmin) return absl::OkStatus();
  const std::optional<std::string> owner = sessions->OwnerOf(session_id);
  if (!owner.has_value() || *owner == who.owner) return absl::OkStatus();
  return Sessions::NoSession(session_id);
}

Whose CallContext::WhoseOf(const Identity& who, int32_t priority) const {
  return {bearer_tokens->on() ? who.owner : "", priority};
}

absl::Status CallContext::CheckPriority(int32_t priority) {
  if (priority >= -kMostPriority && priority <= kMostPriority) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("priority must be ", -kMostPriority, " to ", kMostPriority,
                                                 " (lower ones come first), found ", priority));
}

void CallContext::Send(std::function<void()> send) const {
  if (sender == nullptr) return send();
  sender->Post(std::move(send));
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

void CallContext::Count(const char* method, const absl::Status& status, const std::string& owner, const Caller& by) {
  const std::string code = status.ok() ? "OK" : absl::StatusCodeToString(status.code());
  ++(status.ok() ? calls : refused);
  metrics->CountCall(method, code);
  if (status.ok()) return;
  activity.Refused({0, method, code, std::string(status.message()), owner});
  const std::optional<int64_t> left_out = refusals.Line(std::chrono::steady_clock::now());
  if (!left_out.has_value()) return;
  if (*left_out > 0) log->Warn("more calls refused", {{"count", *left_out}});
  log->Event("call refused", {{"method", method},
                              {"code", code},
                              {"message", std::string(status.message())},
                              {"owner", owner},
                              {"request", by.request_id},
                              {"trace", by.trace}});
}

}  // namespace duo
