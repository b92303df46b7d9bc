// Which weights a folder holds, without reading all of them: names, types and shapes of every tensor and some bytes of
// each. Two fine-tunes of one model differ. Thread-safe.
#pragma once

#include <string>
#include <string_view>

#include "attn_patterns/lookup.h"
#include "runtime/weights/config.h"
#include "runtime/weights/safetensors.h"

namespace duo {

// Hexadecimal. Part of the saved format: a saved session names the weights that made it.
std::string WeightsFingerprint(const SafetensorsModel& model);
// Of a text, config.json's: equal texts have equal ones. Hexadecimal.
std::string TextFingerprint(std::string_view text);

// What a model folder is known by, for finding its attention pattern; reads the weights only when asked for their
// fingerprint.
ModelIdentity IdentityOf(const std::string& model_dir, const ModelConfig& config);

}  // namespace duo
