// A server that is still loading its model says how far that is; a client waits for it, and shows that. One thread.
#pragma once

#include <functional>

#include "absl/status/status.h"

namespace duo {

// What a server says while its model loads.
bool IsLoading(const absl::Status& status);

// Makes the call again, once a second, as long as its answer is that the model is loading, which goes to stderr.
absl::Status OnceLoaded(const std::function<absl::Status()>& call);

}  // namespace duo
