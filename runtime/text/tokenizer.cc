#include "runtime/text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "kernels/base/read_file.h"
#include "runtime/files/json_fields.h"
#include "runtime/text/stable_text.h"
#include "runtime/text/text_map.h"
#include "runtime/text/tokenizer_json.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

// Encodes words, each distinct one once a call.
class WordEncoder {
 public:
  WordEncoder(const BpeModel& model, std::vector<int32_t>* out) : model_(model), out_(out) {}

  // A word of the pre-tokenizer. Where no merge can cross a word marker it is cut there, which changes no token and
  // lets a whole SentencePiece document use the cache.
  void Encode(std::string_view word) {
    if (!model_.words_split_at_marker) return EncodeCached(word);
    size_t begin = 0;
    for (size_t at = word.find(kWordMarker, 1); at != std::string_view::npos;
         at = word.find(kWordMarker, at + kWordMarker.size())) {
      if (word.substr(begin, at - begin).ends_with(kWordMarker)) continue;
      EncodeCached(word.substr(begin, at - begin));
      begin = at;
    }
    EncodeCached(word.substr(begin));
  }

 private:
  void EncodeCached(std::string_view word) {
    constexpr size_t kLongestCached = 64;  // bytes; longer words hardly repeat
    if (word.size() > kLongestCached) return EncodeWord(model_, word, &scratch_, out_);
    const auto [entry, fresh] = cache_.try_emplace(word);
    if (fresh) {
      entry->second.first = out_->size();
      EncodeWord(model_, word, &scratch_, out_);
      entry->second.second = out_->size() - entry->second.first;
      return;
    }
    // The word's tokens already stand in the output, where it came first.
    const auto [begin, count] = entry->second;
    for (size_t i = 0; i < count; ++i) out_->push_back((*out_)[begin + i]);
  }

  const BpeModel& model_;
  std::vector<int32_t>* out_;
  TextViewMap<std::pair<size_t, size_t>> cache_;  // word -> first, count in *out_
  BpeScratch scratch_;
};

// The ranges of a normalised text that come from ranges of the raw one, `part` of which was normalised. Each part
// between two bounds is normalised behind the character before it; only if these parts make up the whole are they
// believed, for a normaliser may look further: otherwise no range is known.
absl::StatusOr<std::vector<TextRange>> NormalizedRanges(const TokenizerParts& parts, std::string_view raw,
                                                        const TextRange& of, std::span<const TextRange> ranges,
                                                        std::string_view normalized, bool prepend) {
  std::vector<TextRange> known;
  const auto [begin, end] = of;
  const std::string_view text = raw.substr(begin, end - begin);
  size_t at = 0, done = 0;  // of text, of normalized
  absl::Status failed;
  const auto advance = [&](size_t to) {
    if (to == at) return true;
    size_t context = at;
    if (at > 0) PreviousCodePoint(text, &context);
    const bool first = prepend && context == 0;
    const absl::StatusOr<std::string> before =
        at == 0 ? "" : Normalize(parts.normalizer, text.substr(context, at - context), first);
    const absl::StatusOr<std::string> both = Normalize(parts.normalizer, text.substr(context, to - context), first);
    failed.Update(before.status());
    failed.Update(both.status());
    if (!failed.ok() || !both->starts_with(*before)) return false;
    const std::string_view part = std::string_view(*both).substr(before->size());
    if (!normalized.substr(done).starts_with(part)) return false;
    done += part.size();
    at = to;
    return true;
  };
  for (const TextRange& range : ranges) {
    const size_t from = std::max(range.begin, begin), to = std::min(range.end, end);
    if (from >= to) continue;
    bool told = advance(from - begin);
    const size_t known_begin = done;
    told = told && advance(to - begin);
    if (!failed.ok()) return failed;
    if (!told) return std::vector<TextRange>();
    known.push_back({known_begin, done});
  }
  const bool told = advance(text.size()) && done == normalized.size();
  if (!failed.ok()) return failed;
  return told ? known : std::vector<TextRange>();
}

// The text cut at its added tokens, normalised; pieces in order.
absl::StatusOr<Pieces> CutAtAddedTokens(const TokenizerParts& parts, std::string_view text,
                                        std::span<const TextRange> special, bool continued) {
  Pieces pieces;
  const bool all_special = special.size() == 1 && special[0].end - special[0].begin == text.size();
  for (const AddedTokenMatcher::Segment& raw : parts.raw_added.Cut(text, special)) {
    if (raw.token >= 0) {
      pieces.list.push_back({0, 0, false, false, raw.token});
      continue;
    }
    const bool goes_on = continued && raw.begin == 0;
    const absl::StatusOr<std::string> whole =
        Normalize(parts.normalizer, text.substr(raw.begin, raw.end - raw.begin), !goes_on);
    if (!whole.ok()) return whole.status();
    const std::string& normalized = *whole;
    const size_t base = pieces.text.size();
    pieces.text += normalized;
    std::vector<TextRange> ranges;
    if (all_special) {
      ranges.push_back({0, normalized.size()});
    } else if (!parts.normalized_added.empty() && !special.empty()) {
      absl::StatusOr<std::vector<TextRange>> known =
          NormalizedRanges(parts, text, {raw.begin, raw.end}, special, normalized, !goes_on);
      if (!known.ok()) return known.status();
      ranges = *std::move(known);
    }
    for (const AddedTokenMatcher::Segment& s : parts.normalized_added.Cut(normalized, ranges)) {
      const bool first = raw.begin == 0 && s.begin == 0;
      pieces.list.push_back({base + s.begin, base + s.end, first && !continued, first && continued, s.token});
    }
  }
  return pieces;
}

}  // namespace

absl::StatusOr<Tokenizer> Tokenizer::Load(const std::string& path) {
  constexpr size_t kMostBytes = size_t{1} << 30;  // the greatest known file has 35 MB
  absl::StatusOr<std::string> json = ReadFile(path, kMostBytes);
  if (!json.ok()) return json.status();
  return Parse(*json, path);
}

absl::StatusOr<Tokenizer> Tokenizer::Parse(std::string_view json, const std::string& name) {
  absl::StatusOr<TokenizerParts> parts = ParseTokenizerJson(json, name);
  if (!parts.ok()) return parts.status();
  Tokenizer tokenizer;
  tokenizer.parts_ = std::make_shared<const TokenizerParts>(*std::move(parts));
  return tokenizer;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view bytes, EncodeOptions options) const {
  std::string repaired;
  if (!IsValidUtf8(bytes)) {
    repaired = ReplaceInvalidUtf8(bytes);
    bytes = repaired;
  }
  const TextRange whole{0, bytes.size()};
  return EncodeText(bytes, {&whole, options.parse_special ? 1u : 0u}, options);
}

namespace {

// Segments as one text and the ranges of it in which special tokens are recognised, neighbours joined.
std::string Join(std::span<const TextSegment> segments, std::vector<TextRange>* special) {
  std::string text;
  for (const TextSegment& segment : segments) {
    const size_t begin = text.size();
    text += ReplaceInvalidUtf8(segment.text);
    if (!segment.parse_special || text.size() == begin) continue;
    if (!special->empty() && special->back().end == begin) {
      special->back().end = text.size();
    } else {
      special->push_back({begin, text.size()});
    }
  }
  return text;
}

}  // namespace

// The tail is encoded besides: its tokens end those of the whole, and what is before them is certain. (The beginning by
// itself would not do: a word at its end may have been found by a look at what follows.)
absl::StatusOr<StableTokens> Tokenizer::EncodeStableText(std::string_view text, std::span<const TextRange> special,
                                                         EncodeOptions options) const {
  StableTokens stable;
  stable.bytes = StableBytes(*parts_, text, special, options.continued);
  if (stable.bytes == 0) return stable;
  options.unfinished = true;
  absl::StatusOr<std::vector<int32_t>> all = EncodeText(text, special, options);
  if (!all.ok()) return all.status();
  stable.ids = *std::move(all);
  std::vector<TextRange> rest;
  for (const TextRange& range : special) {
    if (range.end > stable.bytes)
      rest.push_back({std::max(range.begin, stable.bytes) - stable.bytes, range.end - stable.bytes});
  }
  options.continued = true;
  const absl::StatusOr<std::vector<int32_t>> tail = EncodeText(text.substr(stable.bytes), rest, options);
  if (!tail.ok()) return tail.status();
  const bool agrees = stable.ids.size() > tail->size() && std::equal(tail->rbegin(), tail->rend(), stable.ids.rbegin());
  if (!agrees) return StableTokens();  // nothing is certain of a text that is not the sum of its parts
  stable.ids.resize(stable.ids.size() - tail->size());
  return stable;
}

absl::StatusOr<StableTokens> Tokenizer::EncodeStable(std::string_view bytes, EncodeOptions options) const {
  bytes = bytes.substr(0, CertainUtf8Prefix(bytes));
  const bool valid = IsValidUtf8(bytes);
  const std::string repaired = valid ? std::string() : ReplaceInvalidUtf8(bytes);
  const std::string_view text = valid ? bytes : repaired;
  const TextRange whole{0, text.size()};
  absl::StatusOr<StableTokens> stable = EncodeStableText(text, {&whole, options.parse_special ? 1u : 0u}, options);
  if (stable.ok() && !valid) stable->bytes = RawOffset(bytes, stable->bytes);
  return stable;
}

absl::StatusOr<StableTokens> Tokenizer::EncodeStable(std::span<const TextSegment> segments, bool continued) const {
  std::vector<TextSegment> certain(segments.begin(), segments.end());
  if (!certain.empty()) certain.back().text.resize(CertainUtf8Prefix(certain.back().text));
  std::vector<TextRange> special;
  const std::string text = Join(certain, &special);
  absl::StatusOr<StableTokens> stable =
      EncodeStableText(text, special, {.add_special_tokens = false, .continued = continued});
  if (!stable.ok()) return stable;
  size_t left = stable->bytes;  // of the repaired text
  stable->bytes = 0;
  for (const TextSegment& segment : certain) {
    const size_t repaired = IsValidUtf8(segment.text) ? segment.text.size() : ReplaceInvalidUtf8(segment.text).size();
    if (left < repaired) {
      stable->bytes += repaired == segment.text.size() ? left : RawOffset(segment.text, left);
      break;
    }
    stable->bytes += segment.text.size();
    left -= repaired;
  }
  return stable;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodeSegments(std::span<const TextSegment> segments,
                                                               bool add_special_tokens, bool continued) const {
  std::vector<TextRange> special;
  const std::string text = Join(segments, &special);
  return EncodeText(text, special, {.add_special_tokens = add_special_tokens, .continued = continued});
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodeText(std::string_view text, std::span<const TextRange> special,
                                                           const EncodeOptions& options) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 8);
  const bool begins = options.add_special_tokens && !options.continued;
  const bool ends = options.add_special_tokens && !options.unfinished;
  if (begins) ids.insert(ids.end(), parts_->prefix.begin(), parts_->prefix.end());
  absl::StatusOr<Pieces> pieces = CutAtAddedTokens(*parts_, text, special, options.continued);
  if (!pieces.ok()) return pieces.status();
  if (absl::Status split = PreTokenize(parts_->pre_tokenizer, &*pieces); !split.ok()) return split;
  WordEncoder encoder(parts_->model, &ids);
  for (const Piece& piece : pieces->list) {
    if (piece.token >= 0) {
      ids.push_back(piece.token);
    } else {
      encoder.Encode(std::string_view(pieces->text).substr(piece.begin, piece.end - piece.begin));
    }
  }
  if (ends) ids.insert(ids.end(), parts_->suffix.begin(), parts_->suffix.end());
  return ids;
}

bool Tokenizer::has_stable_places() const { return HasStablePlaces(*parts_); }

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special) const {
  StreamDecoder decoder(*this, skip_special);
  std::string text;
  for (const int32_t id : ids) text += decoder.Push(id);
  return text += decoder.Flush();
}

int32_t Tokenizer::vocab_size() const { return static_cast<int32_t>(parts_->texts.size()); }

std::optional<int32_t> Tokenizer::bos_id() const {
  if (parts_->prefix.empty()) return std::nullopt;
  return parts_->prefix.front();
}

std::optional<int32_t> Tokenizer::IdOf(std::string_view text) const {
  const auto found = parts_->ids.find(text);
  if (found == parts_->ids.end()) return std::nullopt;
  return found->second;
}

std::string_view Tokenizer::TextOf(int32_t id) const {
  return id >= 0 && id < vocab_size() ? std::string_view(parts_->texts[id]) : std::string_view();
}

bool Tokenizer::is_special(int32_t id) const { return id >= 0 && id < vocab_size() && parts_->special[id]; }

std::string Tokenizer::BytesOf(int32_t id) const {
  if (is_special(id) || TextOf(id).empty()) return "";
  return TokenBytes(parts_->decoder, TextOf(id));
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : parts_(tokenizer.parts_), skip_special_(skip_special), detokenizer_(parts_->decoder) {}

std::string StreamDecoder::Push(int32_t id) {
  std::string out;
  if (id < 0 || static_cast<size_t>(id) >= parts_->texts.size() || parts_->texts[id].empty()) return out;
  if (!skip_special_ || !parts_->special[id]) detokenizer_.Push(parts_->texts[id], &out);
  return out;
}

std::string StreamDecoder::Flush() {
  std::string out;
  detokenizer_.Flush(&out);
  return out;
}

}  // namespace duo
