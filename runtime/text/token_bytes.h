// A tokenizer's tokens as bytes, for grammars. Pure.
#pragma once

#include <cstdint>
#include <memory>

#include "runtime/text/grammar/token_trie.h"
#include "runtime/text/tokenizer.h"

namespace duo {

// Of the model's vocabulary, which may be larger than the tokenizer's: ids that the tokenizer lacks are no text.
std::shared_ptr<const TokenTrie> MakeTokenTrie(const Tokenizer& tokenizer, int64_t vocab);

}  // namespace duo
