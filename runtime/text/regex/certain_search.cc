#include "runtime/text/regex/certain_search.h"

#include <tuple>

#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

constexpr size_t kMostSteps = 32'000'000;
constexpr int kDeepest = 60;

}  // namespace

CertainSearch::Found CertainSearch::Find(std::string_view text, size_t from) {
  text_ = text;
  Found found;
  found.known = from;
  for (size_t at = from;; NextCodePoint(text, &at)) {
    looked_ = false;
    const std::optional<size_t> end = Match(0, at, 0);
    if (looked_ || gave_up_ || at >= text.size()) {
      found.known = gave_up_ ? from : at;
      return found;
    }
    if (!end.has_value() || (*end == at && at == from && from > 0)) continue;
    return {true, at, *end, at};
  }
}

bool CertainSearch::AtEnd(size_t at) {
  looked_ |= at >= text_.size();
  return at >= text_.size();
}

bool CertainSearch::IsWordEdge(size_t at) {
  CharacterSet word;
  word.items.push_back({0, 0, program_->word_type, false});
  size_t previous = at, next = at;
  const bool before = at > 0 && word.Has(PreviousCodePoint(text_, &previous));
  const bool behind = !AtEnd(at) && word.Has(NextCodePoint(text_, &next));
  return before != behind;
}

// An instruction that only looks, or takes one character.
bool CertainSearch::Step(const Instruction& instruction, size_t* at, int depth, size_t pc) {
  using Op = Instruction::Op;
  size_t previous = *at;
  switch (instruction.op) {
    case Op::kSet:
      return !AtEnd(*at) && program_->sets[static_cast<size_t>(instruction.a)].Has(NextCodePoint(text_, at));
    case Op::kLook:
      return Match(pc + 1, *at, depth + 1).has_value() == (instruction.b == 0);
    case Op::kAtomic: {
      const std::optional<size_t> end = Match(pc + 1, *at, depth + 1);
      if (end.has_value()) *at = *end;
      return end.has_value();
    }
    case Op::kBehind: {
      const bool has =
          *at > 0 && program_->sets[static_cast<size_t>(instruction.a)].Has(PreviousCodePoint(text_, &previous));
      return has == (instruction.b == 0);
    }
    case Op::kLineBegin:  // not behind the text's last line feed
      return *at == 0 || (text_[*at - 1] == '\n' && !AtEnd(*at));
    case Op::kLineEnd:
      return AtEnd(*at) || text_[*at] == '\n';
    case Op::kTextBegin:
      return *at == 0;
    case Op::kTextEnd:
      return AtEnd(*at);
    case Op::kWordEdge:
      return IsWordEdge(*at) == (instruction.b == 0);
    case Op::kSplit:
    case Op::kJump:
    case Op::kDone:
      break;
  }
  return false;
}

std::optional<size_t> CertainSearch::Match(size_t pc, size_t at, int depth) {
  using Op = Instruction::Op;
  std::vector<std::pair<size_t, size_t>> others;  // where to go on should this fail: instruction, place
  gave_up_ |= depth > kDeepest;
  while (!gave_up_) {
    gave_up_ |= ++steps_ > kMostSteps;
    const Instruction& instruction = program_->code[pc];
    const auto target = [pc](int32_t by) { return static_cast<size_t>(static_cast<int64_t>(pc) + by); };
    if (instruction.op == Op::kDone) return at;
    if (instruction.op == Op::kSplit) {
      others.emplace_back(target(instruction.b), at);
      pc = target(instruction.a);
    } else if (instruction.op == Op::kJump) {
      pc = target(instruction.a);
    } else if (Step(instruction, &at, depth, pc)) {
      const bool encloses = instruction.op == Op::kLook || instruction.op == Op::kAtomic;
      pc = encloses ? target(instruction.a + 1) : pc + 1;
    } else {
      if (others.empty()) return std::nullopt;
      std::tie(pc, at) = others.back();
      others.pop_back();
    }
  }
  return std::nullopt;
}

}  // namespace duo
