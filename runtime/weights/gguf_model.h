// A GGUF file as a model: its config and its tensors as the rest of the weights' code knows them from a folder. Files
// are trusted in nothing (runtime/gguf): a tensor of another name, type or shape than the model has is refused. Pure
// functions, any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/gguf/gguf_file.h"
#include "runtime/weights/config.h"
#include "runtime/weights/safetensors.h"

namespace duo {

// Of the file at `path`.
absl::StatusOr<ModelConfig> LoadGgufConfig(const std::string& path);

// Under a folder's names, pointing into the file. Rows of q and k that lie in pairs say so (TensorInfo::paired_heads).
// RoPE's divisors are no tensor here: the config has them.
absl::StatusOr<std::vector<TensorInfo>> GgufTensors(const GgufFile& file);

// "210 Q4_1, 61 F32, 1 Q8_0": how many tensors of a file have which type, most bytes first.
std::string GgufTypeCounts(const GgufFile& file);

}  // namespace duo
