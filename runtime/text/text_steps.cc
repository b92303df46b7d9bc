#include "runtime/text/text_steps.h"

#include <algorithm>
#include <array>
#include <utility>

namespace duo {
namespace {

// GPT-2's table: printable Latin-1 bytes are themselves, the others follow from U+0100 on, in order.
struct ByteLevelTable {
  std::array<char32_t, 256> character{};
  std::array<int16_t, 0x144> byte{};
  constexpr ByteLevelTable() {
    for (auto& b : byte) b = -1;
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      character[b] = printable ? static_cast<char32_t>(b) : next++;
      byte[character[b]] = static_cast<int16_t>(b);
    }
  }
};
constexpr ByteLevelTable kByteLevel;

absl::StatusOr<std::string> NormalizeOnce(const NormalizerStep& step, std::string text) {
  using Kind = NormalizerStep::Kind;
  switch (step.kind) {
    case Kind::kUnicode:
      return NormalizeUnicode(text, step.form);
    case Kind::kLowercase:
      return LowercaseUnicode(text);
    case Kind::kStrip:
      return std::string(Stripped(text, step.strip_left, step.strip_right, IsWhiteSpace));
    case Kind::kStripAccents:
      return RemoveMarks(text);
    case Kind::kPrepend:
      return text.empty() ? text : step.text + text;
    case Kind::kReplace:
      return ReplaceAll(step.pattern, step.text, text);
    case Kind::kByteLevel: {
      std::string out;
      AppendByteLevel(text, &out);
      return out;
    }
  }
  return text;
}

struct Part {
  TextRange range;
  bool match = false;
};

// The whole of [0, length) as matches and gaps, in order.
void Cover(const std::vector<TextRange>& matches, size_t length, bool invert, std::vector<Part>* parts) {
  parts->clear();
  size_t from = 0;
  for (const TextRange& m : matches) {
    if (m.begin > from) parts->push_back({{from, m.begin}, invert});
    parts->push_back({m, !invert});
    from = m.end;
  }
  if (from < length) parts->push_back({{from, length}, invert});
}

void Arrange(SplitBehavior behavior, const std::vector<Part>& parts, std::vector<TextRange>* out) {
  out->clear();
  bool previous_match = false;
  // A part of its own, or where it joins, more of the last one.
  auto add = [&](const Part& part, bool joins, auto extend) {
    if (joins && !out->empty()) {
      extend(out->back(), part.range);
    } else {
      out->push_back(part.range);
    }
    previous_match = part.match;
  };
  switch (behavior) {
    case SplitBehavior::kRemoved:
      for (const Part& p : parts) {
        if (!p.match) out->push_back(p.range);
      }
      break;
    case SplitBehavior::kIsolated:
      for (const Part& p : parts) out->push_back(p.range);
      break;
    case SplitBehavior::kMergedWithPrevious:
      for (const Part& p : parts) {
        add(p, p.match && !previous_match, [](TextRange& last, const TextRange& range) { last.end = range.end; });
      }
      break;
    case SplitBehavior::kMergedWithNext:
      for (auto p = parts.rbegin(); p != parts.rend(); ++p) {
        add(*p, p->match && !previous_match, [](TextRange& last, const TextRange& range) { last.begin = range.begin; });
      }
      std::reverse(out->begin(), out->end());
      break;
    case SplitBehavior::kContiguous:
      for (const Part& p : parts) {
        add(p, p.match == previous_match, [](TextRange& last, const TextRange& range) { last.end = range.end; });
      }
      break;
  }
}

absl::Status SplitPieces(const PreTokenizerStep& step, Pieces* pieces) {
  Regex::Scanner scanner(step.pattern);
  std::vector<Piece> list;
  std::vector<TextRange> matches, ranges;
  std::vector<Part> parts;
  list.reserve(pieces->list.size());
  for (const Piece& piece : pieces->list) {
    if (piece.token >= 0) {
      list.push_back(piece);
      continue;
    }
    const std::string_view text = std::string_view(pieces->text).substr(piece.begin, piece.end - piece.begin);
    if (absl::Status searched = scanner.FindAll(text, &matches); !searched.ok()) return searched;
    Cover(matches, text.size(), step.invert, &parts);
    Arrange(step.behavior, parts, &ranges);
    for (const TextRange& r : ranges) {
      if (r.end > r.begin)
        list.push_back({piece.begin + r.begin, piece.begin + r.end, piece.at_start && r.begin == 0,
                        piece.continued && r.begin == 0, -1});
    }
  }
  pieces->list = std::move(list);
  return absl::OkStatus();
}

// Rewrites every piece's text by append(piece, text, out).
template <typename Append>
void RewritePieces(Pieces* pieces, Append append) {
  std::string text;
  text.reserve(pieces->text.size() + pieces->text.size() / 4);
  for (Piece& piece : pieces->list) {
    if (piece.token >= 0) continue;
    const size_t begin = text.size();
    append(piece, std::string_view(pieces->text).substr(piece.begin, piece.end - piece.begin), &text);
    piece.begin = begin;
    piece.end = text.size();
  }
  pieces->text = std::move(text);
}

}  // namespace

absl::StatusOr<std::string> Normalize(const std::vector<NormalizerStep>& steps, std::string_view text, bool prepend) {
  absl::StatusOr<std::string> out(text);
  for (const NormalizerStep& step : steps) {
    if (step.kind == NormalizerStep::Kind::kPrepend && !prepend) continue;
    out = NormalizeOnce(step, *std::move(out));
    if (!out.ok()) break;
  }
  return out;
}

absl::StatusOr<std::string> ReplaceAll(const Regex& pattern, std::string_view replacement, std::string_view text) {
  std::vector<TextRange> matches;
  if (absl::Status searched = Regex::Scanner(pattern).FindAll(text, &matches); !searched.ok()) return searched;
  std::string out;
  out.reserve(text.size() + matches.size() * replacement.size());
  size_t from = 0;
  for (const TextRange& m : matches) {
    out.append(text.substr(from, m.begin - from)).append(replacement);
    from = m.end;
  }
  return out.append(text.substr(from));
}

void AppendByteLevel(std::string_view bytes, std::string* out) {
  for (const char b : bytes) AppendUtf8(kByteLevel.character[static_cast<uint8_t>(b)], out);
}

void AppendByteLevelDecoded(std::string_view token, std::string* bytes) {
  const size_t start = bytes->size();
  for (size_t i = 0; i < token.size();) {
    const char32_t c = NextCodePoint(token, &i);
    if (c >= kByteLevel.byte.size() || kByteLevel.byte[c] < 0) {
      bytes->resize(start);
      bytes->append(token);
      return;
    }
    bytes->push_back(static_cast<char>(kByteLevel.byte[c]));
  }
}

absl::Status PreTokenize(const std::vector<PreTokenizerStep>& steps, Pieces* pieces) {
  using Kind = PreTokenizerStep::Kind;
  for (const PreTokenizerStep& step : steps) {
    switch (step.kind) {
      case Kind::kSplit:
        if (absl::Status split = SplitPieces(step, pieces); !split.ok()) return split;
        break;
      case Kind::kPrefix:
        RewritePieces(pieces, [&](const Piece& piece, std::string_view text, std::string* out) {
          const bool wanted = step.prefix_where == PreTokenizerStep::PrefixWhere::kEveryPiece || piece.at_start;
          if (wanted && !piece.continued && !text.starts_with(step.text)) *out += step.text;
          out->append(text);
        });
        break;
      case Kind::kReplaceSpaces:
        RewritePieces(pieces, [&](const Piece&, std::string_view text, std::string* out) {
          for (const char c : text) c == ' ' ? void(*out += step.text) : out->push_back(c);
        });
        break;
      case Kind::kByteLevel:
        RewritePieces(pieces,
                      [](const Piece&, std::string_view text, std::string* out) { AppendByteLevel(text, out); });
        break;
    }
  }
  return absl::OkStatus();
}

}  // namespace duo
