#include "runtime/text/grammar/guide.h"

#include "runtime/text/grammar/gbnf.h"
#include "runtime/text/grammar/json_schema.h"
#include "runtime/text/grammar/regex_syntax.h"

namespace duo {

absl::StatusOr<std::shared_ptr<const Grammar>> CompileGuide(const Guide& guide, const GrammarLimits& limits) {
  GrammarBuilder builder(limits);
  absl::StatusOr<ExprId> root = absl::InvalidArgumentError("nothing is asked of the answer");
  switch (guide.kind) {
    case Guide::Kind::kNone:
      break;
    case Guide::Kind::kJsonObject:
      root = AnyJsonObject(builder);
      break;
    case Guide::Kind::kJsonSchema:
      root = ParseJsonSchema(builder, guide.text);
      break;
    case Guide::Kind::kRegex:
      root = ParseRegex(builder, guide.text, RegexMatch::kWhole, Spelling::kText);
      break;
    case Guide::Kind::kGrammar:
      root = ParseGbnf(builder, guide.text);
      break;
  }
  if (!root.ok()) return root.status();
  return CompileGrammar(builder, *root);
}

}  // namespace duo
