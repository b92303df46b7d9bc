#include "runtime/text/added_tokens.h"

#include <algorithm>
#include <iterator>

#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

bool WordCharacterBefore(std::string_view text, size_t pos) {
  return pos > 0 && IsWordCharacter(PreviousCodePoint(text, &pos));
}

bool WordCharacterAt(std::string_view text, size_t pos) {
  return pos < text.size() && IsWordCharacter(NextCodePoint(text, &pos));
}

size_t SpaceBefore(std::string_view text, size_t pos) {
  while (pos > 0) {
    size_t previous = pos;
    if (!IsWhiteSpace(PreviousCodePoint(text, &previous))) break;
    pos = previous;
  }
  return pos;
}

size_t SpaceAfter(std::string_view text, size_t pos) {
  while (pos < text.size()) {
    size_t next = pos;
    if (!IsWhiteSpace(NextCodePoint(text, &next))) break;
    pos = next;
  }
  return pos;
}

bool InOneRange(std::span<const TextRange> ranges, size_t begin, size_t end) {
  const auto after = std::upper_bound(ranges.begin(), ranges.end(), begin,
                                      [](size_t value, const TextRange& range) { return value < range.begin; });
  return after != ranges.begin() && std::prev(after)->end >= end;
}

}  // namespace

void AddedTokenMatcher::Add(std::string_view pattern, const AddedToken& token) {
  int32_t node = 0;
  for (const char c : pattern) {
    const auto [child, fresh] = trie_[node].children.try_emplace(c, static_cast<int32_t>(trie_.size()));
    node = child->second;
    if (fresh) trie_.emplace_back();
  }
  if (trie_[node].token >= 0) return;
  trie_[node].token = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
  first_bytes_[static_cast<uint8_t>(pattern[0])] = true;
  longest_ = std::max(longest_, pattern.size());
  takes_left_ |= token.lstrip;
}

const AddedToken* AddedTokenMatcher::Longest(std::string_view text, size_t* length) const {
  const AddedToken* best = nullptr;
  int32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto child = trie_[node].children.find(text[i]);
    if (child == trie_[node].children.end()) break;
    node = child->second;
    if (trie_[node].token >= 0) {
      best = &tokens_[trie_[node].token];
      *length = i + 1;
    }
  }
  return best;
}

std::vector<AddedTokenMatcher::Segment> AddedTokenMatcher::Cut(std::string_view text,
                                                               std::span<const TextRange> special) const {
  std::vector<Segment> segments;
  size_t plain = 0;  // where the plain text not yet put out begins
  for (size_t i = 0; i < text.size() && !tokens_.empty();) {
    if (!first_bytes_[static_cast<uint8_t>(text[i])]) {
      ++i;
      continue;
    }
    size_t length = 0;
    const AddedToken* token = Longest(text.substr(i), &length);
    if (token == nullptr) {
      ++i;
      continue;
    }
    size_t begin = i, end = i + length;
    i = end;
    if (token->special && !InOneRange(special, begin, end)) continue;
    if (token->single_word && (WordCharacterBefore(text, begin) || WordCharacterAt(text, end))) continue;
    if (token->lstrip) begin = std::max(SpaceBefore(text, begin), plain);
    if (token->rstrip) end = SpaceAfter(text, end);
    if (plain < begin) segments.push_back({plain, begin, -1});
    segments.push_back({begin, end, token->id});
    plain = end;
  }
  if (plain < text.size()) segments.push_back({plain, text.size(), -1});
  return segments;
}

size_t AddedTokenMatcher::PendingAtEnd(std::string_view text) const {
  if (tokens_.empty()) return text.size();
  size_t last = text.size();  // behind white space at the end there is nothing that has begun
  while (last > 0) {
    size_t previous = last;
    if (!IsWhiteSpace(PreviousCodePoint(text, &previous))) break;
    last = previous;
  }
  size_t pending = text.size();
  for (const size_t end : {text.size(), last}) {
    for (size_t begin = end > longest_ ? end - longest_ : 0; begin < end && begin < pending; ++begin) {
      int32_t node = 0;
      size_t at = begin;
      for (; at < end && node >= 0; ++at) {
        const auto child = trie_[node].children.find(text[at]);
        node = child == trie_[node].children.end() ? -1 : child->second;
      }
      if (node < 0) continue;
      const bool begun = !trie_[node].children.empty() && end == text.size();
      const AddedToken* whole = trie_[node].token >= 0 ? &tokens_[trie_[node].token] : nullptr;
      if (begun || (whole != nullptr && (whole->rstrip || (whole->single_word && end == text.size())))) pending = begin;
    }
  }
  return takes_left_ ? SpaceBefore(text, pending) : pending;
}

}  // namespace duo
