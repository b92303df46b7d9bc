// compressed-tensors' quantization_config: config_groups of schemes, each with the modules that it is of.
// Pure, any thread.
#pragma once

#include <string>

#include "runtime/files/json_fields.h"
#include "runtime/weights/quantization_config.h"

namespace duo {

// One group becomes the config's own scheme, of all modules, for the tensors themselves say which are quantised;
// several become its groups. The fields remember what is refused. `file` is what errors call it.
QuantizationConfig ParseCompressedTensors(JsonFields& fields, const std::string& file);

// One of a config's groups as a config of its own.
QuantizationConfig AsConfig(const QuantizationGroup& group);

}  // namespace duo
