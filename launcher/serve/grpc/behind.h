// Behind: the calls that the services lead to, once the model is loaded; until then a client is told how far that is.
// And the gates that their messages come through.
// Any thread.
#pragma once

#include <atomic>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "launcher/serve/calls/context.h"
#include "launcher/serve/calls/message_gate.h"

namespace duo {

struct Behind {
  Behind(const MessageGate::Limits& limits, const MessageGate::Limits& probe_limits)
      : messages(limits), probes(probe_limits) {}

  std::atomic<CallContext*> context{nullptr};  // null while the model loads
  std::atomic<double> loaded{0};               // of its bytes, 0 to 1

  MessageGate messages, probes;  // of the calls; of those that ask for health, which needs no token

  // The sentence's beginning is what clients know it by.
  absl::Status Loading() const {
    return absl::UnavailableError(
        absl::StrFormat("the model is loading, %.0f %% of it is here; try again later", 100 * loaded));
  }
};

}  // namespace duo
