// Prompt: a whole prompt that belongs to no session, from its call until the engine has it. A plain value on the
// engine's thread, held by whoever it waits for.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "launcher/serve/sessions/session_view.h"

namespace duo {

struct Prompt {
  CallPtr call;
  std::vector<int32_t> tokens;
  GenerateParams params;
  std::vector<AskEvents> answers;
  // What was brought back from disk for it: "moved_out" or "saved"; empty: nothing.
  std::string restored_from = {}, restored_session = {};
  int64_t restored_bytes = 0;

  // It ends before the engine has it.
  void Refuse(const absl::Status& status) const {
    RequestResult result;
    result.status = status;
    for (const AskEvents& answer : answers) answer.on_done(result, 0);
  }
};
using PromptPtr = std::shared_ptr<Prompt>;

}  // namespace duo
