// Which heads keep every token: by a pattern, or as --attention says. One thread a rank.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "attn_patterns/head_plan.h"
#include "parallel/communicator.h"
#include "runtime/engine/engine.h"
#include "runtime/weights/config.h"

namespace duo {

// Decides options.attention where it is kAuto. notes: what the user is to be told.
absl::StatusOr<HeadPlan> ChooseHeads(EngineOptions& options, const ModelConfig& config,
                                     std::vector<std::string>& notes);

// Rank 0's head plan for all: only rank 0 needs the pattern's files.
void ShareHeads(Communicator& comm, HeadPlan* plan);

}  // namespace duo
