// Which heads keep every token: by a pattern, or as --attention says. One thread a rank.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "attn_patterns/head_plan.h"
#include "attn_patterns/lookup.h"
#include "attn_patterns/pattern.h"
#include "parallel/communicator.h"
#include "runtime/engine/engine.h"
#include "runtime/weights/config.h"

namespace duo {

// The pattern that options name, or the model's.
absl::StatusOr<FoundPattern> PatternOf(const EngineOptions& options, const ModelConfig& config);

// Decides options.attention where it is kAuto. notes: what the user is to be told.
absl::StatusOr<HeadPlan> ChooseHeads(EngineOptions& options, const ModelConfig& config,
                                     std::vector<std::string>& notes);

// Rank 0's head plan for all: only rank 0 needs the pattern's files.
void ShareHeads(Communicator& comm, HeadPlan* plan);

// The heads that are asked where an answer looked: those that options or the pattern name, as far as they keep every
// token, or else all that do. Weights add up to 1.
absl::StatusOr<std::vector<ProvenanceHead>> ChooseProvenance(const EngineOptions& options, const ModelConfig& config,
                                                             const HeadPlan& heads);

// Rank 0's for all.
void ShareProvenance(Communicator& comm, std::vector<ProvenanceHead>* heads);

}  // namespace duo
