#include "runtime/weights/module_target.h"

#include <vector>

namespace duo {
namespace {

constexpr std::string_view kExpression = "re:";

// The class that a module of a checkpoint has in transformers. Ours are of two kinds.
std::string_view ClassOf(std::string_view module) { return module.ends_with("embed_tokens") ? "Embedding" : "Linear"; }

}  // namespace

absl::StatusOr<ModuleTarget> ModuleTarget::Parse(const std::string& text) {
  ModuleTarget target;
  target.text_ = text;
  target.is_expression_ = text.starts_with(kExpression);
  if (!target.is_expression_) return target;
  absl::StatusOr<Regex> expression = Regex::Compile(std::string_view(text).substr(kExpression.size()));
  if (!expression.ok()) return expression.status();
  target.expression_ = *std::move(expression);
  return target;
}

ModuleTarget::Match ModuleTarget::Of(std::string_view module) const {
  if (!is_expression_) {
    if (text_ == module) return Match::kName;
    return text_ == ClassOf(module) ? Match::kClass : Match::kNone;
  }
  std::vector<TextRange> found;
  // A search that is given up is of an expression made to be slow: it names nothing.
  if (!Regex::Scanner(expression_).FindAll(module, &found).ok()) return Match::kNone;
  return !found.empty() && found.front().begin == 0 ? Match::kExpression : Match::kNone;
}

}  // namespace duo
