// ModuleTarget: an entry of compressed-tensors' lists `targets` and `ignore`, which say what modules a scheme is of: a
// module's name ("model.layers.3.mlp.down_proj"), a class's name ("Linear") or, behind "re:", a regular expression that
// has to match from the name's beginning on.
// A value that shares its compiled expression; const calls from any thread. Errors: an expression that cannot be read,
// quoted.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "runtime/text/regex/regex.h"

namespace duo {

class ModuleTarget {
 public:
  static absl::StatusOr<ModuleTarget> Parse(const std::string& text);

  // By how a module is met, the nearest first; where several targets meet it, the nearest one counts, and of
  // expressions the first by their text. That is compressed-tensors' own order, which wrote the file.
  enum class Match { kName, kExpression, kClass, kNone };
  Match Of(std::string_view module) const;
  const std::string& text() const { return text_; }

  bool operator==(const ModuleTarget& other) const { return text_ == other.text_; }

 private:
  std::string text_;
  Regex expression_;
  bool is_expression_ = false;
};

}  // namespace duo
