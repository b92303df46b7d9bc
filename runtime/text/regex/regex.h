// Regular expressions of tokenizer.json, run by Oniguruma with its Ruby syntax, as Hugging Face's tokenizers runs them.
// Why the same library: another one reads the same pattern differently without a word ({1,3}+, {,n}, \b beside marks,
// POSIX brackets). It splits some 35 MB a second on one core, so no pattern needs another engine.
// Ownership: a Regex is a cheap value that shares its compiled, immutable program. Threads: const calls are safe from
// any thread; a Scanner belongs to one. Errors: a pattern that cannot be compiled is refused by Compile with a sentence
// that quotes it; a search that Oniguruma gives up is an error of FindAll, never "no match".
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace duo {

struct TextRange {
  size_t begin = 0;  // bytes
  size_t end = 0;
  friend bool operator==(const TextRange&, const TextRange&) = default;
};

class Regex {
 public:
  static absl::StatusOr<Regex> Compile(std::string_view pattern);
  // A regex that matches exactly `text`, which is not empty.
  static Regex Literal(std::string_view text);
  std::string_view literal() const { return literal_ == nullptr ? std::string_view() : *literal_; }  // or empty
  // Whether LooksAtEnd can ever say no: the pattern is of the kind that certain_syntax.h reads.
  bool can_be_certain() const;
  // Whether what it finds at a place may depend on what is before it; also where the pattern is not understood.
  bool looks_behind() const;

  // Calls of FindAll share one scanner's work memory; make one scanner and reuse it over many texts.
  class Scanner {
   public:
    explicit Scanner(const Regex& regex);
    // All non-overlapping matches in text, left to right. An empty match right after another match is not reported.
    // text: valid UTF-8.
    absl::Status FindAll(std::string_view text, std::vector<TextRange>* matches);

    // Whether text behind `text` could change what FindAll finds next after `from`, the end of a match or 0: the search
    // looks at the text's end, or finds nothing, or is not understood. match: what FindAll found there, or null if that
    // is to be told. *known (may be null) then becomes the place before which no match can begin, whatever follows.
    bool LooksAtEnd(std::string_view text, size_t from, const TextRange* match, size_t* known);

   private:
    struct Work;
    std::shared_ptr<const std::string> literal_;
    std::shared_ptr<Work> work_;  // null for a literal
  };

 private:
  struct Program;
  std::shared_ptr<const Program> program_;      // or null
  std::shared_ptr<const std::string> literal_;  // or null
};

}  // namespace duo
