// How much of a text is certain already: the longest beginning whose tokens no later text can change. A document that
// comes in pieces, or that a question follows, is read up to there; the rest stays text and is tokenised with what
// comes, so that the tokens are those of the whole text in one piece.
//
// What later text can change: a word that a splitting regular expression has not finished (the search that found it
// looked at the text's end), an added token that has only begun, a character that a combining mark may join, the last
// word of a tokenizer that cuts words at markers. Where nothing is certain (a tokenizer without words, a normaliser
// that looks at a whole text) the answer is 0. Pure functions, thread-safe.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "runtime/text/regex/regex.h"
#include "runtime/text/tokenizer_json.h"

namespace duo {

// Bytes of `text`, valid UTF-8, in which special tokens are recognised within the ranges `special`. continued: the text
// goes on behind another one, at a place that this function gave. The answer is a character's beginning, or the text's
// end.
size_t StableBytes(const TokenizerParts& parts, std::string_view text, std::span<const TextRange> special,
                   bool continued);

// Whether StableBytes can be more than 0 for a text without added tokens.
bool HasStablePlaces(const TokenizerParts& parts);

}  // namespace duo
