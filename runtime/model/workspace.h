// The workspace's size: Forward itself, run once for each kind of step on a device that has no memory and runs nothing
// (Device::Measuring), counts what the largest steps take. So nothing is sized by a copy of what Forward does.
// Pure; collective work and device work are not done.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "attn_patterns/head_plan.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/model/model.h"
#include "runtime/weights/weights.h"

namespace duo {

// Arena bytes that steps within the limits need. Of `sizes` the format and the slots count.
// drafts: formats of a copy of the weights that guesses; null: there is none.
absl::StatusOr<int64_t> WorkspaceBytes(const ModelParts& parts, const WeightFormats& formats,
                                       const WeightFormats* drafts, const HeadPlan& heads, const KvSizes& sizes,
                                       const StepLimits& limits, const Device& device);

}  // namespace duo
