// The tokenizer of a model: a folder's tokenizer.json, and what stands beside it that changes it, or a GGUF file's.
// Why: tokenizer_config.json may take a word's prefix space away or add it, and a tokenizer of more tokens than the
// model has rows fails only at the first text that has one; both belong to loading. Threads: any. Errors: those of
// Tokenizer::Parse, and a tokenizer that does not fit the model.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/text/tokenizer.h"

namespace duo {

// rows: of the model's embedding.
absl::StatusOr<Tokenizer> LoadTokenizerOf(const std::string& model_dir, int64_t rows);

}  // namespace duo
