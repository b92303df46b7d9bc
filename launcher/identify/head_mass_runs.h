// The parts of `duo identify` that run forward passes of the engine alone: provenance heads for a pattern
// (--provenance-only), and a pattern without training (--quick). Collective: every rank calls them; results and output
// are rank 0's.
#pragma once

#include "absl/status/status.h"
#include "launcher/identify/identify_flags.h"
#include "launcher/identify/identify_inputs.h"
#include "launcher/terminal/commands.h"
#include "launcher/terminal/runtime_flags.h"

namespace duo {

// What both work with.
struct HeadMassRun {
  const IdentifyFlags& flags;
  const Launch& launch;
  Runtime& runtime;
  const IdentifyInputs& inputs;
};

// Adds provenance heads to the pattern in flags.provenance_only; nothing else of it changes.
absl::Status AddProvenanceHeads(const HeadMassRun& run);

// Writes a pattern to flags.out whose gates follow from where heads look, and says how it compares with the model's
// other pattern, if it has one.
absl::Status IdentifyQuickly(const HeadMassRun& run);

}  // namespace duo
