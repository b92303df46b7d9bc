// The door of this folder: what a request may ask its answer to be, compiled.
// CompileGuide is pure and may take up to the limits' time: not for the engine's thread.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "runtime/text/grammar/grammar.h"

namespace duo {

struct Guide {
  enum class Kind { kNone, kJsonObject, kJsonSchema, kRegex, kGrammar };
  Kind kind = Kind::kNone;
  std::string text;  // the schema, the pattern or the GBNF
  friend bool operator==(const Guide&, const Guide&) = default;
};

// INVALID_ARGUMENT with a sentence on what is wrong, unsupported or too large.
absl::StatusOr<std::shared_ptr<const Grammar>> CompileGuide(const Guide& guide, const GrammarLimits& limits = {});

}  // namespace duo
