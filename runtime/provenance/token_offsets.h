// Which bytes of a text its tokens stand for, found by reading the tokens' own bytes along the text: so for any
// tokenizer, with any normaliser, from what every tokenizer can say of a token alone.
//
// Where the text has what a token says, the token stands for exactly that. Where it does not (a space that a tokenizer
// put before a text, characters that its normaliser put together, white space that an added token swallowed), tokens
// from there on are passed over until one is found again a little further on, and those passed over stand for all that
// lies between. Ranges ascend and lie within the text. Pure; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "runtime/text/tokenizer.h"

namespace duo {

struct ByteRange {
  int64_t begin = 0, end = 0;
  bool operator==(const ByteRange&) const = default;
};

// text: valid UTF-8; tokens: of the text, or of one that begins or goes on with it. Special tokens stand for their
// spelling where the text has it, else for nothing.
std::vector<ByteRange> TokenRanges(const Tokenizer& tokenizer, std::span<const int32_t> tokens, std::string_view text);

}  // namespace duo
