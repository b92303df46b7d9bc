// Which quantised checkpoints can be read (stored_matrix.h has how), said before a tensor is looked for. Any thread.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "runtime/weights/quantization_config.h"

namespace duo {

// Whether checkpoints of this quantisation can be read; the refusal says in one sentence what is not supported. `file`
// is what it calls config.json.
absl::Status CheckSupported(const QuantizationConfig& config, const std::string& file);

}  // namespace duo
