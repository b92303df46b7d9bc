// What of the flags of runtime_flags.h contradicts the number of ranks or each other, refused before anything is
// opened: usage errors (exit code 2) that name the flag. The engine refuses the same, later, to whoever comes by
// another way.
#pragma once

#include "launcher/terminal/runtime_flags.h"

namespace duo {

// --rank-weights, of `world` ranks; 0: nobody knows yet how many there will be.
void CheckRankWeights(const RuntimeFlags& flags, int world);
// --speculate and what guesses drafts.
void CheckDraftFlags(const RuntimeFlags& flags);
// All of them, of a command that writes answers.
void CheckRuntimeFlags(const RuntimeFlags& flags, const Launch& launch);

}  // namespace duo
