#include "runtime/text/stable_text.h"

#include <algorithm>
#include <string>
#include <vector>

#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

// Of words that the end of the text does not touch, so many in a row end the look back from it.
constexpr size_t kCertainWords = 32;

bool OneCharacter(const Regex& pattern) {
  const std::string_view literal = pattern.literal();
  size_t end = 0;
  if (literal.empty()) return false;
  NextCodePoint(literal, &end);
  return end == literal.size();
}

// Whether each step rewrites a character without a look at what is not beside it.
bool Local(const std::vector<NormalizerStep>& steps) {
  return std::all_of(steps.begin(), steps.end(), [](const NormalizerStep& step) {
    return step.kind != NormalizerStep::Kind::kStrip &&
           (step.kind != NormalizerStep::Kind::kReplace || OneCharacter(step.pattern));
  });
}

// Whether `text`'s first character can never become part of what is before it.
bool BeginsApart(const std::vector<NormalizerStep>& steps, std::string_view text) {
  size_t next = 0;
  const char32_t first = NextCodePoint(text, &next);
  return std::all_of(steps.begin(), steps.end(), [first](const NormalizerStep& step) {
    return step.kind != NormalizerStep::Kind::kUnicode || HasNormalizationBoundaryBefore(first, step.form);
  });
}

// A text without its last character and the marks on it, which later marks may join, or move among themselves, however
// far back the character is.
std::string_view WithoutOpenCharacter(const std::vector<NormalizerStep>& steps, std::string_view text) {
  const auto normalizes = [](const NormalizerStep& step) { return step.kind == NormalizerStep::Kind::kUnicode; };
  if (std::none_of(steps.begin(), steps.end(), normalizes)) return text;
  size_t end = text.size();
  for (bool apart = false; end > 0 && !apart;) {
    PreviousCodePoint(text, &end);
    apart = BeginsApart(steps, text.substr(end));
  }
  return text.substr(0, end);
}

// A text as the words are looked for in it: normalised, spaces replaced. Steps that are Local search for no pattern.
std::string Rewritten(const TokenizerParts& parts, std::string_view text, bool prepend) {
  std::string out = Normalize(parts.normalizer, text, prepend).value();
  for (const PreTokenizerStep& step : parts.pre_tokenizer) {
    if (step.kind != PreTokenizerStep::Kind::kReplaceSpaces) continue;
    out = ReplaceAll(Regex::Literal(" "), step.text, out).value();
  }
  return out;
}

// Where a step's splitting is certain: `begin` is the start of the last piece that is not finished, of which the
// characters before `known` are sure to belong to it.
struct Open {
  size_t begin = 0, known = 0;
};

// The same after one more split of the open piece. Its text is `text`, up to what is known.
Open Split(const PreTokenizerStep& step, std::string_view text) {
  if (step.pattern.looks_behind()) return {0, 0};  // what goes on does not see what is before it
  Regex::Scanner scanner(step.pattern);
  std::vector<TextRange> matches;
  if (!scanner.FindAll(text, &matches).ok()) return {0, 0};  // encoding it will say why
  // The last match that was found without a look at the end, and that all matches before it were found so, too.
  size_t certain = matches.size(), seen = 0;
  for (size_t i = matches.size(); i > 0 && seen < kCertainWords; --i) {
    const size_t from = i == 1 ? 0 : matches[i - 2].end;
    if (scanner.LooksAtEnd(text, from, &matches[i - 1], nullptr)) {
      certain = i - 1;
      seen = 0;
    } else {
      ++seen;
    }
  }
  Open open;
  const size_t end = certain == 0 ? 0 : matches[certain - 1].end;
  open.known = text.size();
  scanner.LooksAtEnd(text, end, certain < matches.size() ? &matches[certain] : nullptr, &open.known);
  open.begin = end;
  const bool gap = open.known > end;  // what is open begins with text that is no match
  switch (step.behavior) {
    case SplitBehavior::kRemoved:
    case SplitBehavior::kIsolated:
    case SplitBehavior::kMergedWithPrevious:
      break;
    case SplitBehavior::kMergedWithNext:
      if (certain > 0) open.begin = matches[certain - 1].begin;
      break;
    case SplitBehavior::kContiguous:
      if (gap) break;
      while (certain > 0 && matches[certain - 1].end == open.begin) open.begin = matches[--certain].begin;
      break;
  }
  // Between the certain matches and the open one a gap belongs to the open piece, but a match may end it at once.
  if (open.begin < end && !gap) open.known = std::max(open.known, end);
  return open;
}

// The start of the last word of a model that cuts words at markers; 0 where there is only one.
size_t LastMarkedWord(std::string_view text) {
  for (size_t at = text.rfind(kWordMarker); at != std::string_view::npos && at > 0;
       at = text.rfind(kWordMarker, at - 1)) {
    if (!text.substr(0, at).ends_with(kWordMarker)) return at;
  }
  return 0;
}

// Starts of pieces that no later text changes, from the last one back, in the rewritten text of a segment.
size_t CertainStart(const TokenizerParts& parts, std::string_view text) {
  Open open{0, text.size()};
  bool split = false;
  for (const PreTokenizerStep& step : parts.pre_tokenizer) {
    if (step.kind == PreTokenizerStep::Kind::kPrefix && split) return 0;  // prefixes of inner words are not followed
    if (step.kind != PreTokenizerStep::Kind::kSplit) continue;
    const Open inner = Split(step, text.substr(open.begin, open.known - open.begin));
    open.known = open.begin + inner.known;
    open.begin += inner.begin;
    split = true;
  }
  if (parts.model.words_split_at_marker) {
    open.begin += LastMarkedWord(text.substr(open.begin, open.known - open.begin));
  }
  return open.begin;
}

// The raw offset whose rewritten text begins at `start` of `rewritten`; 0 where there is none.
size_t OffsetInRaw(const TokenizerParts& parts, std::string_view raw, std::string_view rewritten, size_t start) {
  const std::string_view tail = rewritten.substr(start);
  if (raw == rewritten) return start;
  size_t low = 0, high = raw.size();  // Rewritten(raw from low on) is at least as long as tail, from high on it is not
  for (size_t bytes = 2 * tail.size() + 64; bytes < raw.size(); bytes *= 2) {  // most tails are short
    size_t from = raw.size() - bytes;
    while (from > 0 && (static_cast<uint8_t>(raw[from]) & 0xC0) == 0x80) --from;
    if (Rewritten(parts, raw.substr(from), false).size() < tail.size()) continue;
    low = from;
    break;
  }
  while (low + 1 < high) {
    size_t middle = low + (high - low) / 2;
    while (middle > low && (static_cast<uint8_t>(raw[middle]) & 0xC0) == 0x80) --middle;
    if (middle == low) {  // one long character: try the other side of it
      middle = low + (high - low) / 2;
      while (middle < high && (static_cast<uint8_t>(raw[middle]) & 0xC0) == 0x80) ++middle;
      if (middle >= high) break;
    }
    if (Rewritten(parts, raw.substr(middle), false).size() >= tail.size()) {
      low = middle;
    } else {
      high = middle;
    }
  }
  // Of characters that become nothing the last one is as good as the first.
  const bool same = low > 0 && Rewritten(parts, raw.substr(low), false) == tail;
  return same && BeginsApart(parts.normalizer, raw.substr(low)) ? low : 0;
}

}  // namespace

bool HasStablePlaces(const TokenizerParts& parts) {
  if (!Local(parts.normalizer)) return false;
  bool split = false;
  for (const PreTokenizerStep& step : parts.pre_tokenizer) {
    if (step.kind == PreTokenizerStep::Kind::kPrefix && split) return false;
    split |= step.kind == PreTokenizerStep::Kind::kSplit && !step.pattern.looks_behind();
  }
  return split || parts.model.words_split_at_marker;
}

size_t StableBytes(const TokenizerParts& parts, std::string_view text, std::span<const TextRange> special,
                   bool continued) {
  if (!Local(parts.normalizer)) return 0;
  text = text.substr(0, parts.raw_added.PendingAtEnd(text));
  const std::vector<AddedTokenMatcher::Segment> segments = parts.raw_added.Cut(text, special);
  if (segments.empty()) return 0;
  const AddedTokenMatcher::Segment& last = segments.back();
  // Before an added token the text is certain: what is before it ends there, and the token begins a text of its own.
  const size_t before = last.token >= 0 ? last.begin : segments.size() > 1 ? segments[segments.size() - 2].begin : 0;
  if (last.token >= 0) return before;
  const std::string_view raw = WithoutOpenCharacter(parts.normalizer, text.substr(last.begin));
  const bool prepend = !(continued && last.begin == 0);
  const std::string rewritten = Rewritten(parts, raw, prepend);
  if (!parts.normalized_added.empty()) {
    const TextRange all{0,
                        rewritten.size()};  // special ones too, wherever they are recognised: at worst less is certain
    const auto inner = parts.normalized_added.Cut(rewritten, {&all, special.empty() ? 0u : 1u});
    const bool found = std::any_of(inner.begin(), inner.end(), [](const auto& s) { return s.token >= 0; });
    if (found || parts.normalized_added.PendingAtEnd(rewritten) < rewritten.size()) return before;
  }
  const size_t start = CertainStart(parts, rewritten);
  if (start == 0) return before;
  // A text may end with a word that is whole, as where each digit is one: nothing of it is open then.
  const size_t offset = start == rewritten.size() ? raw.size() : OffsetInRaw(parts, raw, rewritten, start);
  return offset == 0 ? before : last.begin + offset;
}

}  // namespace duo
