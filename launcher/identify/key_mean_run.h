// The part of `duo identify` that measures the mean of a model's keys over a text (--key-means). Collective; rank 0
// does the work.
#pragma once

#include "absl/status/status.h"
#include "launcher/identify/head_mass_runs.h"

namespace duo {

// Writes key_means.tsv to flags.out.
absl::Status MeasureKeyMeans(const HeadMassRun& run);

}  // namespace duo
