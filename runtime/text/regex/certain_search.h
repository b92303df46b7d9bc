// A search that knows what it looked at: whether text behind a text's end could change what it found.
// Why: see certain_syntax.h. A backtracking matcher in the order in which Oniguruma tries; it is used for the last few
// words of a text only, so it need not be fast.
// Ownership: refers to its program. Threads: one at a time. Errors: none; a search that takes too long is not certain.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/text/regex/certain_syntax.h"

namespace duo {

class CertainSearch {
 public:
  explicit CertainSearch(const CertainProgram& program) : program_(&program) {}

  struct Found {
    bool certain = false;       // the match below is found, whatever follows the text
    size_t begin = 0, end = 0;  // bytes
    size_t known = 0;           // not certain: no match can begin before here, whatever follows
  };
  // The first match that begins at `from` or behind. from: 0, or the end of another match, where no empty one counts.
  Found Find(std::string_view text, size_t from);

 private:
  // The end of a match of the instructions from `pc` to a kDone.
  std::optional<size_t> Match(size_t pc, size_t at, int depth);
  bool Step(const Instruction& instruction, size_t* at, int depth, size_t pc);
  bool AtEnd(size_t at);
  bool IsWordEdge(size_t at);

  const CertainProgram* program_;
  std::string_view text_;
  bool looked_ = false;  // at the text's end
  bool gave_up_ = false;
  size_t steps_ = 0;  // of all searches
};

}  // namespace duo
