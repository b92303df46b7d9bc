// The first two stages of a tokenizer as tables of steps: normalisation (text to text) and pre-tokenisation (text to
// pieces that the model encodes apart).
// Why a table: tokenizer.json names two dozen kinds, which come down to the few primitives below; tokenizer_json.cc
// translates. Ownership: plain values. Threads: functions are pure, safe from any thread. Errors: a pattern's search
// that was given up; steps are checked when they are made. Text is valid UTF-8 throughout.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/text/regex/regex.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {

struct NormalizerStep {
  enum class Kind { kUnicode, kLowercase, kStrip, kStripAccents, kPrepend, kReplace, kByteLevel };
  Kind kind = Kind::kUnicode;
  NormalizationForm form = NormalizationForm::kNfc;  // kUnicode
  bool strip_left = false, strip_right = false;      // kStrip
  std::string text;                                  // kPrepend: what; kReplace: by what
  Regex pattern;                                     // kReplace
};

// prepend: false where the text goes on behind another one, whose beginning has had its kPrepend.
absl::StatusOr<std::string> Normalize(const std::vector<NormalizerStep>& steps, std::string_view text,
                                      bool prepend = true);

absl::StatusOr<std::string> ReplaceAll(const Regex& pattern, std::string_view replacement, std::string_view text);

// Bytes as GPT-2 spells them: each byte becomes one printable character (U+0021..U+0143).
void AppendByteLevel(std::string_view bytes, std::string* out);
// The inverse for one token's text; the text itself where it holds a character that spells no byte.
void AppendByteLevelDecoded(std::string_view token, std::string* bytes);

struct Piece {
  size_t begin = 0;  // bytes of Pieces::text
  size_t end = 0;
  bool at_start = false;   // begins where the prompt begins
  bool continued = false;  // goes on behind a piece of an earlier text: no prefix
  int32_t token = -1;      // >= 0: an added token, which no step touches
};

struct Pieces {
  std::string text;
  std::vector<Piece> list;
};

// What becomes of a match and of the text between matches.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct PreTokenizerStep {
  enum class Kind { kSplit, kPrefix, kReplaceSpaces, kByteLevel };
  enum class PrefixWhere { kEveryPiece, kFirstPiece };
  Kind kind = Kind::kSplit;
  Regex pattern;                                        // kSplit
  SplitBehavior behavior = SplitBehavior::kIsolated;    // kSplit
  bool invert = false;                                  // kSplit: a match is what lies between the pattern's matches
  std::string text;                                     // kPrefix, kReplaceSpaces
  PrefixWhere prefix_where = PrefixWhere::kEveryPiece;  // kPrefix: before pieces that do not begin with it
};

absl::Status PreTokenize(const std::vector<PreTokenizerStep>& steps, Pieces* pieces);

}  // namespace duo
