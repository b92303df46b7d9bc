// What a call did, as a span. Any thread; nothing is done where nobody wants spans.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "launcher/serve/calls/context.h"

namespace duo {

struct CallSpan {
  const char* method = "";
  Caller caller;  // by which the call is named
  std::string owner, session;
  std::chrono::steady_clock::time_point begun;
};

// The call has ended, now. parts: what it did last, one after another up to now, each with its seconds; what was before
// the first of them belongs to it.
void SendSpan(const CallContext& context, const CallSpan& call, const absl::Status& status,
              std::vector<SpanPart> parts = {}, std::vector<SpanField> fields = {});

}  // namespace duo
