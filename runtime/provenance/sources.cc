#include "runtime/provenance/sources.h"

#include <algorithm>
#include <map>
#include <utility>

#include "kernels/kv_layout.h"
#include "runtime/provenance/sentences.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

// Where the document begins in what was rendered from it, and how much of its beginning was left out there: templates
// may trim what they are given.
struct Place {
  size_t rendered = std::string::npos, document = 0, bytes = 0;
};
Place Find(std::string_view document, std::string_view rendered) {
  if (const size_t at = rendered.find(document); at != rendered.npos) return {at, 0, document.size()};
  size_t begin = 0, end = document.size();
  while (begin < end && IsSpace(document[begin])) ++begin;
  while (end > begin && IsSpace(document[end - 1])) --end;
  const size_t at = rendered.find(document.substr(begin, end - begin));
  return {at, begin, end - begin};
}

}  // namespace

SourceMap::SourceMap(const Tokenizer& tokenizer, std::string sent, std::string_view rendered,
                     std::span<const int32_t> tokens)
    : sent_(std::move(sent)), read_(ReplaceInvalidUtf8(sent_)) {
  sentences_ = SentenceStarts(read_);
  const Place place = duo::Find(read_, rendered);
  if (place.rendered == std::string::npos) return;  // nothing of it is known to lie there
  ranges_ = TokenRanges(tokenizer, tokens, rendered);
  const auto first = static_cast<int64_t>(place.rendered), last = first + static_cast<int64_t>(place.bytes);
  const int64_t shift = static_cast<int64_t>(place.document) - first;
  for (ByteRange& range : ranges_) {
    range = {std::clamp(range.begin, first, last) + shift, std::clamp(range.end, first, last) + shift};
  }
}

SourceMap::SourceMap(const Tokenizer& tokenizer, const SentText& sent, std::span<const int32_t> tokens)
    : sent_(sent.text), read_(ReplaceInvalidUtf8(sent.text)) {
  sentences_ = SentenceStarts(read_);
  // Where byte i of what was sent came to lie: pieces end between characters, as nearly all texts do, or a byte off.
  const auto read_offset = [&](int64_t byte) {
    if (read_.size() == sent_.size()) return byte;
    return static_cast<int64_t>(ReplaceInvalidUtf8(std::string_view(sent_).substr(0, byte)).size());
  };
  ranges_.resize(std::min<size_t>(tokens.size(), sent.tokens));
  for (size_t i = 0; i < sent.pieces.size(); ++i) {
    const SentPiece& piece = sent.pieces[i];
    const bool last = i + 1 == sent.pieces.size();
    const auto first = static_cast<size_t>(piece.token);
    const auto end = std::min(ranges_.size(), last ? ranges_.size() : static_cast<size_t>(sent.pieces[i + 1].token));
    if (first >= end) continue;
    // Behind its own text lies the tail that later tokens begin with: the last tokens may reach into it.
    const int64_t begin = read_offset(piece.byte), frame_at = read_offset(piece.byte + piece.frame_at) - begin;
    const auto frame = static_cast<int64_t>(piece.frame.size());
    const int64_t behind =
        last ? static_cast<int64_t>(read_.size()) : read_offset(sent.pieces[i + 1].byte + sent.pieces[i + 1].frame_at);
    std::string rendered = read_.substr(begin, behind - begin);
    rendered.insert(std::min(rendered.size(), static_cast<size_t>(frame_at)), piece.frame);
    const std::vector<ByteRange> own = TokenRanges(tokenizer, tokens.subspan(first, end - first), rendered);
    const auto place = [&](int64_t at) { return begin + (at <= frame_at ? at : std::max(frame_at, at - frame)); };
    for (size_t k = 0; k < own.size(); ++k) ranges_[first + k] = {place(own[k].begin), place(own[k].end)};
  }
}

ByteRange SourceMap::RangeOf(int64_t token) const {
  if (token < 0 || token >= tokens()) return {};
  const ByteRange range = ranges_[token];
  if (range.begin == range.end) return {};
  return {static_cast<int64_t>(RawOffset(sent_, range.begin)), static_cast<int64_t>(RawOffset(sent_, range.end))};
}

LookedAt WhatCounts(const RowMass& row) {
  LookedAt looked;
  looked.position = row.position;
  for (size_t i = 0; i < row.keys.size(); ++i) {
    if (row.keys[i] < kLeastMass) continue;
    looked.tokens.emplace_back(row.best[i / kPageTokens] * kPageTokens + static_cast<int32_t>(i % kPageTokens),
                               row.keys[i]);
  }
  return looked;
}

std::vector<Source> SourceMap::Find(std::span<const LookedAt> rows, const Options& options) const {
  std::map<size_t, double> mass;  // by sentence
  for (const LookedAt& row : rows) {
    const int64_t last = std::min(tokens(), row.position - options.recent + 1);
    for (const auto& [token, m] : row.tokens) {
      if (token < options.sinks || token >= last) continue;
      const ByteRange range = ranges_[token];
      if (range.begin == range.end) continue;
      int64_t at = range.begin;  // the white space that a token begins with is not what it says
      while (at + 1 < range.end && IsSpace(read_[at])) ++at;
      const auto next = std::upper_bound(sentences_.begin(), sentences_.end(), at);
      mass[static_cast<size_t>(next - sentences_.begin()) - 1] += m;
    }
  }
  std::vector<std::pair<double, size_t>> order;
  for (const auto& [sentence, m] : mass) order.emplace_back(-m / static_cast<double>(rows.size()), sentence);
  std::sort(order.begin(), order.end());
  std::vector<Source> sources;
  for (const auto& [negative, sentence] : order) {
    if (static_cast<int>(sources.size()) >= options.most) break;
    Source source = SourceAt(sentence, -negative);
    if (source.begin < source.end) sources.push_back(std::move(source));
  }
  return sources;
}

Source SourceMap::SourceAt(size_t sentence, double score) const {
  int64_t begin = sentences_[sentence];
  int64_t end = sentence + 1 < sentences_.size() ? sentences_[sentence + 1] : static_cast<int64_t>(read_.size());
  while (begin < end && IsSpace(read_[begin])) ++begin;
  while (end > begin && IsSpace(read_[end - 1])) --end;
  Source source;
  source.score = score;
  if (begin == end) return source;
  source.begin = static_cast<int64_t>(RawOffset(sent_, begin));
  source.end = static_cast<int64_t>(RawOffset(sent_, end));
  source.line = 1 + std::count(sent_.begin(), sent_.begin() + source.begin, '\n');
  source.text = sent_.substr(source.begin, source.end - source.begin);
  return source;
}

}  // namespace duo
