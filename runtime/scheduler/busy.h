// RESOURCE_EXHAUSTED of two kinds: there is no room now, or there can never be. Who retries, and a transport whose
// clients do (HTTP's 429 and 413), must know which. Pure functions; any thread.
#pragma once

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"

namespace duo {

inline constexpr char kBusyPayload[] = "duo/busy";

// There is no room now: the same call may succeed later.
inline absl::Status Busy(absl::string_view sentence) {
  absl::Status status = absl::ResourceExhaustedError(sentence);
  status.SetPayload(kBusyPayload, absl::Cord());
  return status;
}

inline bool IsBusy(const absl::Status& status) { return status.GetPayload(kBusyPayload).has_value(); }

}  // namespace duo
