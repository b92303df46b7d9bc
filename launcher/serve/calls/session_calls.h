// The calls on sessions that have one answer. Each checks its caller, takes its turn on the engine's thread and gives
// `finish` its answer, as unary_call.h says. Fields and errors as in duo.proto.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launcher/serve/calls/unary_call.h"

namespace duo {

struct CreateRequest {
  std::string id;          // empty: the server makes one
  int64_t max_tokens = 0;  // 0: the server's limit
  bool durable = false;
  int64_t reserved_tokens = 0;  // that it is promised room for at once
  bool chat = false;            // a conversation
  std::string system = {};      // its system turn
};
UnaryCallPtr StartCreate(CallContext& context, const Caller& caller, CreateRequest request,
                         Answered<SessionView> finish);

struct ForkRequest {
  std::string session_id, new_id;
  int64_t max_tokens = 0;  // 0: as many as the session's
  int64_t reserved_tokens = 0;
};
UnaryCallPtr StartFork(CallContext& context, const Caller& caller, ForkRequest request, Answered<SessionView> finish);

struct RewindRequest {
  std::string session_id;
  int64_t tokens = 0;
};
UnaryCallPtr StartRewind(CallContext& context, const Caller& caller, RewindRequest request,
                         Answered<SessionView> finish);

struct GetRequest {
  std::string session_id;
};
UnaryCallPtr StartGet(CallContext& context, const Caller& caller, GetRequest request, Answered<SessionView> finish);

struct PinRequest {
  std::string session_id;
  bool pinned = false;
};
// Takes the right kServer.
UnaryCallPtr StartPin(CallContext& context, const Caller& caller, PinRequest request, Answered<SessionView> finish);

// Sessions, and behind them what prompts left (SessionView::prefix).
UnaryCallPtr StartList(CallContext& context, const Caller& caller, Answered<std::vector<SessionView>> finish);

struct CloseRequest {
  std::string session_id;
  bool delete_saved = false;
};
struct CloseAnswer {};
UnaryCallPtr StartClose(CallContext& context, const Caller& caller, CloseRequest request, Answered<CloseAnswer> finish);

struct SaveRequest {
  std::string session_id;
};
UnaryCallPtr StartSave(CallContext& context, const Caller& caller, SaveRequest request, Answered<SaveDone> finish);

struct RestoreRequest {
  std::string session_id;  // under which it was saved
  std::string new_id;      // empty: the same
  int64_t max_tokens = 0;  // 0: as saved
  bool reread = false;     // from its tokens, not its pages
};
UnaryCallPtr StartRestore(CallContext& context, const Caller& caller, RestoreRequest request,
                          Answered<SaveDone> finish);

struct TokenizeRequest {
  std::string text;
  bool special = false;
  bool begin_of_text = false;  // with the tokens that the tokenizer puts before a text
};
// By a worker; it cannot be cancelled.
void StartTokenize(CallContext& context, const Caller& caller, TokenizeRequest request,
                   Answered<std::vector<int32_t>> finish);

}  // namespace duo
