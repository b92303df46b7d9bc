#include "runtime/provenance/sent_text.h"

#include <algorithm>
#include <utility>

#include "runtime/provenance/sources.h"

namespace duo {

void SentText::Add(std::string_view piece, std::string frame, int64_t first, int64_t after, int64_t left) {
  const auto begin = static_cast<int64_t>(text.size()) - tail;
  pieces.push_back({first, begin, tail, std::move(frame)});
  text += piece;
  tokens = after;
  known = true;
  tail = std::min(left, static_cast<int64_t>(text.size()) - begin);
}

void SentText::Cut(const Tokenizer& tokenizer, std::span<const int32_t> all, int64_t to) {
  if (to >= tokens) {
    text.resize(text.size() - static_cast<size_t>(tail));  // its text was left behind the tokens
    tail = 0;
    return;
  }
  const SourceMap map(tokenizer, *this, all.first(std::min<size_t>(all.size(), to)));
  int64_t end = 0;
  for (int64_t t = 0; t < map.tokens(); ++t) end = std::max(end, map.RangeOf(t).end);
  text.resize(static_cast<size_t>(end));
  std::erase_if(pieces, [&](const SentPiece& piece) { return piece.token >= to; });
  tokens = to;
  tail = 0;
}

}  // namespace duo
