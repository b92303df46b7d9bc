// `duo generate --replay N`: each question is read once to see where it looks, and then asked behind a copy of the
// sentences that it looked at most, so that they are near it. Lossy only in that it asks another question. Engine's
// thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "launcher/generate_texts.h"
#include "runtime/engine/engine.h"
#include "runtime/provenance/sources.h"

namespace duo {

constexpr int64_t kReplayedBytes = 512;  // of a sentence at most; so it has at most as many tokens, and a line's end

// For each of texts.asks, behind the session that has the prompt or is about to: the `most` sentences that its first
// answer token would look at most, as they stand in the prompt. The engine must read where answers look.
absl::StatusOr<std::vector<std::vector<Source>>> LookBefore(Engine& engine, SessionId session, const Texts& texts,
                                                            int most);

// The question behind these sentences.
std::string BehindSources(const std::vector<Source>& found, const std::string& ask);

}  // namespace duo
