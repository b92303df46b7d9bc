// What a tokenizer.json comes to: the tables that Tokenizer works from. Internal to the tokenizer.
// Ownership: a plain value, immutable once parsed. Errors: ParseTokenizerJson refuses what is damaged or unsupported.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/added_tokens.h"
#include "runtime/text/bpe.h"
#include "runtime/text/detokenizer.h"
#include "runtime/text/text_map.h"
#include "runtime/text/text_steps.h"

namespace duo {

struct TokenizerParts {
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre_tokenizer;
  BpeModel model;
  std::vector<DetokenizerStep> decoder;
  AddedTokenMatcher raw_added;         // looked for in the text as it came
  AddedTokenMatcher normalized_added;  // looked for after normalisation
  std::vector<int32_t> prefix;         // put before every text by the post-processor
  std::vector<int32_t> suffix;
  std::vector<std::string> texts;  // by id
  std::vector<bool> special;       // by id
  TextMap<int32_t> ids;            // of the vocabulary and the added tokens
};

// name: what errors call the file.
absl::StatusOr<TokenizerParts> ParseTokenizerJson(std::string_view json, const std::string& name);

}  // namespace duo
