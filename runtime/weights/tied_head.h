// Models that say "tie_word_embeddings" and yet bring an output head of their own: whoever trained it meant it.
// Threads: any. Errors: none.
#pragma once

#include "runtime/weights/config.h"
#include "runtime/weights/safetensors.h"

namespace duo {

// Whether the files have an lm_head.weight that is not embed_tokens.weight, though the config ties them. Reads both.
bool HasHeadOfItsOwn(const SafetensorsModel& files, const ModelConfig& config);

}  // namespace duo
