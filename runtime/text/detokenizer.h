// From tokens back to text, piece by piece.
// Why one streaming machine: decoding a whole text is pushing its tokens and flushing, so what a user sees streamed is,
// by construction, what decoding the whole gives. Each step turns a stream of token texts into another one.
// Ownership: DetokenizerStep is an immutable value; Detokenizer owns its state and points at steps that must outlive
// it. Threads: one Detokenizer a thread. Errors: none.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/text/regex/regex.h"

namespace duo {

struct DetokenizerStep {
  enum class Kind {
    kByteLevel,     // GPT-2's spelling of bytes; invalid UTF-8 becomes U+FFFD; all tokens become one text
    kMetaspace,     // the word marker becomes a space
    kReplace,       // in each token's text; its search never fails, which ParseTokenizerJson has seen to
    kByteFallback,  // a run of <0xNN> tokens becomes its character(s), or one U+FFFD a byte if it is not UTF-8
    kFuse,          // all tokens become one text
    kStrip,         // removes up to `left` leading and `right` trailing `text` characters of each token's text
    kSpaces,        // a space between tokens
  };
  Kind kind = Kind::kFuse;
  Regex pattern;            // kReplace
  std::string text;         // kReplace: by what; kMetaspace: the marker; kStrip: one character
  bool drop_first = false;  // kMetaspace: the first token's markers are dropped, not made spaces
  size_t left = 0, right = 0;
};

// One token's bytes as they are inside a text: what depends on a token's neighbours or on being the first is left out.
std::string TokenBytes(const std::vector<DetokenizerStep>& steps, std::string_view token);

class Detokenizer {
 public:
  explicit Detokenizer(const std::vector<DetokenizerStep>& steps);

  // Takes one token's text and appends to out the text that no later token can change.
  void Push(std::string_view token, std::string* out);
  // Appends what was held back and starts afresh.
  void Flush(std::string* out);

 private:
  struct State {
    std::string held;
    size_t tokens = 0;    // finished ones seen
    size_t stripped = 0;  // kStrip: leading characters removed from this token
    bool open = false;    // kStrip: this token has begun
    bool leading = true;  // kStrip: nothing but stripped characters so far
    bool byte_run = false;
  };
  // A fragment of a token's text; ends: the token ends with it.
  void Feed(size_t step, std::string_view fragment, bool ends, std::string* out);
  void FlushStep(size_t step, std::string* out);
  void FeedStrip(size_t step, std::string_view fragment, bool ends, std::string* out);
  void EmitByteRun(size_t step, std::string* out);

  const std::vector<DetokenizerStep>* steps_;
  std::vector<State> states_;
};

}  // namespace duo
