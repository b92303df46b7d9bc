// The normalizer, pre_tokenizer and decoder sections of a tokenizer.json, translated to tables of steps.
// Internal to the tokenizer. Ownership: values only. Threads: pure functions. Errors: a Status whose sentence names the
// section and the unsupported kind or the wrong field; the caller adds the file's name.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/text/detokenizer.h"
#include "runtime/text/text_steps.h"

namespace duo {

// Reads an optional field; a missing or null one leaves *out as it is.
absl::Status ReadField(const nlohmann::json& object, const char* key, bool* out);
absl::Status ReadField(const nlohmann::json& object, const char* key, std::string* out);
absl::Status ReadField(const nlohmann::json& object, const char* key, int64_t* out);
// The string under "type".
absl::StatusOr<std::string> ReadType(const nlohmann::json& object);

absl::StatusOr<std::vector<NormalizerStep>> ParseNormalizer(const nlohmann::json& section);
absl::StatusOr<std::vector<PreTokenizerStep>> ParsePreTokenizer(const nlohmann::json& section);
absl::StatusOr<std::vector<DetokenizerStep>> ParseDecoder(const nlohmann::json& section);

}  // namespace duo

#define DUO_RETURN_IF_ERROR(expression)                                              \
  do {                                                                               \
    if (absl::Status duo_status = (expression); !duo_status.ok()) return duo_status; \
  } while (0)
