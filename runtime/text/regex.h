// Regular expressions of tokenizer.json, run by PCRE2.
// Why: Hugging Face tokenizers use Oniguruma's Ruby syntax on Unicode text. PCRE2 reads nearly the same language; what
// differs (\s, \w, \d, \h, script names, line anchors) is rewritten at Compile so that both match the same text.
// Ownership: a Regex is a cheap value that shares its compiled, immutable program. Threads: const calls are safe from
// any thread. Errors: a pattern that cannot be compiled, or that uses syntax whose meaning differs (nested classes,
// class intersections), is refused by Compile with a sentence that quotes it.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace duo {

struct TextRange {
  size_t begin = 0;  // bytes
  size_t end = 0;
};

class Regex {
 public:
  static absl::StatusOr<Regex> Compile(std::string_view pattern);
  // A regex that matches exactly `text`, which is not empty; it is searched for without PCRE2.
  static Regex Literal(std::string_view text);
  std::string_view literal() const { return literal_ == nullptr ? std::string_view() : *literal_; }  // or empty

  // Calls of FindAll share one scanner's work memory; make one scanner a thread and reuse it over many texts.
  class Scanner {
   public:
    explicit Scanner(const Regex& regex);
    // All non-overlapping matches in text, left to right. An empty match right after another match is not reported.
    // text: valid UTF-8. Should a hostile pattern exceed PCRE2's match limit, the search of this text ends there.
    void FindAll(std::string_view text, std::vector<TextRange>* matches);

    // Whether text behind `text` could change what FindAll finds next after `from`, the end of a match or 0: the search
    // looks at the text's end, or finds nothing. *known (may be null) then becomes the place before which no match can
    // begin, whatever follows.
    bool LooksAtEnd(std::string_view text, size_t from, size_t* known);

   private:
    struct Work;
    std::shared_ptr<const void> program_;
    std::shared_ptr<const std::string> literal_;
    std::shared_ptr<Work> work_;  // null for a literal
  };

 private:
  std::shared_ptr<const void> program_;         // pcre2_code, or null
  std::shared_ptr<const std::string> literal_;  // or null
};

}  // namespace duo
