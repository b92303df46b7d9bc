// compressed-tensors' quantization_config: config_groups of schemes, each with the modules that it is of.
// Pure, any thread.
#pragma once

#include <string>
#include <string_view>

#include "runtime/files/json_fields.h"
#include "runtime/weights/quantization_config.h"

namespace duo {

// One group becomes the config's own scheme, of all modules, for the tensors themselves say which are quantised;
// several become its groups. The fields remember what is refused. `file` is what errors call it.
QuantizationConfig ParseCompressedTensors(JsonFields& fields, const std::string& file);

// One of a config's groups as a config of its own.
QuantizationConfig AsConfig(const QuantizationGroup& group);

// What of a config of groups took a module: a group by one of its targets, or an entry of `ignore`, which has no group.
// Both are null where nothing names it. They are the config's own.
struct ModuleTaken {
  const QuantizationGroup* group = nullptr;
  const ModuleTarget* target = nullptr;
};
ModuleTaken TakenBy(const QuantizationConfig& config, std::string_view module);
// "of no group's targets", "ignored (lm_head)", "of group_0 (Linear): compressed-tensors ..", for messages.
std::string Describe(const ModuleTaken& taken);

}  // namespace duo
