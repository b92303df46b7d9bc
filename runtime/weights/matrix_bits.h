// What one number says of a model's formats: the bits of a weight that a step reads. The planner and the engine both
// take it for the cost model, so that the one plans what the other does. A pure function, any thread.
#pragma once

#include "runtime/weights/weights.h"

namespace duo {

// The mean over all elements of the layers' matrices that one token is multiplied with, of experts those that it
// chooses, in whole bits; scales are left out. At most 16, for the cost model's machines have no wider matrices.
int MatrixBits(const ModelConfig& config, const WeightFormats& formats);

}  // namespace duo
