// How many of the answers about held-out documents a model knows, before gates are trained on others. The model's
// thread.
#pragma once

#include <cstdint>

#include "runtime/identify/identify_model.h"
#include "runtime/identify/passkey_data.h"

namespace duo {

// Share of the answers' tokens that the model, with full attention, predicts, of two documents of `length` tokens that
// no training step has.
double Recall(IdentifyModel& model, const PasskeyData& data, uint64_t seed, int64_t length);

}  // namespace duo
