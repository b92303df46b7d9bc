#include "runtime/text/jinja/syntax/lexer.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/syntax/literals.h"
#include "runtime/text/jinja/values/characters.h"
#include "runtime/text/unicode/unicode.h"

namespace duo::jinja {
namespace {

class Lexer {
 public:
  Lexer(std::string_view source, std::vector<Token>* tokens, SourceError* error)
      : source_(source), tokens_(*tokens), error_(*error) {}

  bool Run() {
    while (at_ < source_.size()) {
      const size_t tag = FindTag();
      if (tag == std::string_view::npos) {
        AddData(at_, source_.size());
        break;
      }
      if (!Tag(tag)) return false;
    }
    tokens_.push_back({TokenKind::kEnd, source_.size(), "", 0, 0});
    return true;
  }

 private:
  bool Fail(std::string message, size_t offset) {
    error_ = {std::move(message), offset};
    return false;
  }

  bool StartsWith(size_t at, std::string_view what) const { return source_.substr(at).starts_with(what); }

  size_t SkipSpace(size_t at) const {
    while (at < source_.size()) {
      size_t next = at;
      if (!IsSpace(NextCodePoint(source_, &next))) break;
      at = next;
    }
    return at;
  }

  size_t FindTag() const {
    for (size_t at = source_.find('{', at_); at != std::string_view::npos; at = source_.find('{', at + 1)) {
      if (at + 1 < source_.size() && (source_[at + 1] == '%' || source_[at + 1] == '{' || source_[at + 1] == '#'))
        return at;
    }
    return std::string_view::npos;
  }

  void AddData(size_t begin, size_t end) {
    if (end > begin)
      tokens_.push_back({TokenKind::kData, begin, std::string(source_.substr(begin, end - begin)), 0, 0});
  }

  // Where the data before a tag at `tag` ends, for the tag's sign. variable: a print tag, which never takes blanks
  // away.
  size_t DataEnd(size_t tag, char sign, bool variable) const {
    if (sign == '-') {
      size_t end = tag;
      while (end > at_) {
        size_t previous = end;
        if (!IsSpace(PreviousCodePoint(source_, &previous))) break;
        end = previous;
      }
      return std::max(end, at_);
    }
    if (sign == '+' || variable) return tag;
    const size_t line_end = tag == 0 ? std::string_view::npos : source_.rfind('\n', tag - 1);
    const bool has_line_end = line_end != std::string_view::npos && line_end >= at_;
    if (!has_line_end && !line_starting_) return tag;
    const size_t begin = has_line_end ? line_end + 1 : at_;
    return SkipSpace(begin) >= tag ? begin : tag;
  }

  // Past `%}` or `#}` at `close`, with what its sign or trim_blocks takes.
  size_t PastClose(size_t close, bool minus) const {
    const size_t end = close + 2;
    if (minus) return SkipSpace(end);
    return end < source_.size() && source_[end] == '\n' ? end + 1 : end;
  }

  void MoveTo(size_t at) {
    at_ = at;
    line_starting_ = at > 0 && source_[at - 1] == '\n';
  }

  bool Tag(size_t tag) {
    const char what = source_[tag + 1];
    size_t inside = tag + 2;
    char sign = 0;
    if (inside < source_.size() && (source_[inside] == '-' || source_[inside] == '+')) sign = source_[inside++];
    if (what == '%') {
      if (const size_t body = RawBody(inside); body != 0) {
        AddData(at_, DataEnd(tag, sign, false));
        return Raw(tag, body);
      }
    }
    AddData(at_, DataEnd(tag, sign, what == '{'));
    if (what == '#') return Comment(tag, inside);
    const bool variable = what == '{';
    tokens_.push_back({variable ? TokenKind::kVariableBegin : TokenKind::kBlockBegin, tag, "", 0, 0});
    return Code(inside, variable);
  }

  bool Comment(size_t tag, size_t inside) {
    const size_t close = source_.find("#}", inside);
    if (close == std::string_view::npos) return Fail("this comment has no end", tag);
    const char before = close > inside ? source_[close - 1] : ' ';
    MoveTo(before == '+' ? close + 2 : PastClose(close, before == '-'));
    return true;
  }

  // Past `raw %}` if the tag whose inside begins at `at` is a raw one; 0 if not.
  size_t RawBody(size_t at) const {
    at = SkipSpace(at);
    if (!StartsWith(at, "raw")) return 0;
    at = SkipSpace(at + 3);
    if (StartsWith(at, "-%}")) return SkipSpace(at + 3);
    return StartsWith(at, "%}") ? at + 2 : 0;
  }

  bool Raw(size_t tag, size_t body) {
    MoveTo(body);
    for (size_t open = source_.find("{%", body); open != std::string_view::npos; open = source_.find("{%", open + 1)) {
      size_t at = open + 2;
      char sign = 0;
      if (at < source_.size() && (source_[at] == '-' || source_[at] == '+')) sign = source_[at++];
      at = SkipSpace(at);
      if (!StartsWith(at, "endraw")) continue;
      at = SkipSpace(at + 6);
      const char end_sign = at < source_.size() ? source_[at] : ' ';
      if (end_sign == '-' || end_sign == '+') ++at;
      if (!StartsWith(at, "%}")) continue;
      AddData(body, DataEnd(open, sign, false));
      MoveTo(end_sign == '+' ? at + 2 : PastClose(at, end_sign == '-'));
      return true;
    }
    return Fail("this raw block has no endraw", tag);
  }

  // The tokens up to the tag's end, which counts only outside brackets.
  bool Code(size_t at, bool variable) {
    const size_t tag = at;
    std::string open;
    const char* close = variable ? "}}" : "%}";
    while (at < source_.size()) {
      if (open.empty()) {
        const char c = source_[at];
        const bool signed_close = (c == '-' || (c == '+' && !variable)) && StartsWith(at + 1, close);
        if (signed_close || StartsWith(at, close)) {
          const size_t end = at + (signed_close ? 1 : 0);
          tokens_.push_back({variable ? TokenKind::kVariableEnd : TokenKind::kBlockEnd, at, "", 0, 0});
          MoveTo(signed_close && c == '-'   ? SkipSpace(end + 2)
                 : signed_close || variable ? end + 2
                                            : PastClose(end, false));
          return true;
        }
      }
      if (const size_t past = SkipSpace(at); past > at) {
        at = past;
        continue;
      }
      if (!Next(&at, &open)) return false;
    }
    return Fail(variable ? "this {{ has no }}" : "this {% has no %}", tag - 2);
  }

  bool Next(size_t* at, std::string* open) {
    const char c = source_[*at];
    if (c == '\'' || c == '"') return StringToken(at);
    if (c >= '0' && c <= '9') return Number(at);
    size_t next = *at;
    if (IsNamePart(NextCodePoint(source_, &next))) return Name(at);
    return Operator(at, open);
  }

  bool StringToken(size_t* at) {
    const size_t begin = *at;
    size_t end = begin + 1;
    while (end < source_.size() && source_[end] != source_[begin]) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) return Fail("this string has no end", begin);
    Token token{TokenKind::kString, begin, "", 0, 0};
    std::string why;
    if (!StringLiteral(source_.substr(begin + 1, end - begin - 1), &token.text, &why)) return Fail(why, begin);
    tokens_.push_back(std::move(token));
    *at = end + 1;
    return true;
  }

  bool Number(size_t* at) {
    Token token{TokenKind::kInteger, *at, "", 0, 0};
    // `x.0.1` is two look-ups: no float begins behind a point.
    const bool after_point = *at > 0 && source_[*at - 1] == '.';
    if (const size_t end = after_point ? 0 : FloatEnd(source_, *at); end != 0) {
      token.kind = TokenKind::kFloat;
      std::string digits(source_.substr(*at, end - *at));
      digits.erase(std::remove(digits.begin(), digits.end(), '_'), digits.end());
      token.real = std::strtod(digits.c_str(), nullptr);
      *at = end;
    } else if (const size_t past = IntegerLiteral(source_, *at, &token.integer); past != 0) {
      *at = past;
    } else {
      return Fail("this number is larger than 64 bits", *at);
    }
    tokens_.push_back(std::move(token));
    return true;
  }

  bool Name(size_t* at) {
    const size_t begin = *at;
    size_t end = begin;
    while (end < source_.size()) {
      size_t next = end;
      if (!IsNamePart(NextCodePoint(source_, &next))) break;
      end = next;
    }
    size_t first = begin;
    if (!IsNameStart(NextCodePoint(source_, &first))) return Fail("a name cannot begin like this", begin);
    tokens_.push_back({TokenKind::kName, begin, std::string(source_.substr(begin, end - begin)), 0, 0});
    *at = end;
    return true;
  }

  bool Operator(size_t* at, std::string* open) {
    constexpr std::string_view kDouble[] = {"//", "**", "==", "!=", ">=", "<="};
    size_t size = std::string_view("+-/*%~[](){}><=.:|,;").find(source_[*at]) == std::string_view::npos ? 0 : 1;
    for (const std::string_view two : kDouble) {
      if (StartsWith(*at, two)) size = 2;
    }
    if (size == 0) {
      size_t next = *at;
      NextCodePoint(source_, &next);
      return Fail(
          absl::StrCat("the character \"", std::string(source_.substr(*at, next - *at)), "\" has no meaning here"),
          *at);
    }
    const std::string text(source_.substr(*at, size));
    if (text == "{") open->push_back('}');
    if (text == "(") open->push_back(')');
    if (text == "[") open->push_back(']');
    if (text == "}" || text == ")" || text == "]") {
      if (open->empty() || open->back() != text[0]) return Fail(absl::StrCat("this ", text, " closes nothing"), *at);
      open->pop_back();
    }
    tokens_.push_back({TokenKind::kOperator, *at, text, 0, 0});
    *at += size;
    return true;
  }

  std::string_view source_;
  std::vector<Token>& tokens_;
  SourceError& error_;
  size_t at_ = 0;              // where the data begins that was not looked at yet
  bool line_starting_ = true;  // whether it begins a line
};

}  // namespace

std::string NormaliseLineEnds(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out.push_back(source[i]);
    } else {
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
      out.push_back('\n');
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

bool Lex(std::string_view source, std::vector<Token>* tokens, SourceError* error) {
  return Lexer(source, tokens, error).Run();
}

Position PositionOf(std::string_view source, size_t offset) {
  const std::string_view before = source.substr(0, std::min(offset, source.size()));
  const size_t line_end = before.rfind('\n');
  const std::string_view line = line_end == std::string_view::npos ? before : before.substr(line_end + 1);
  return {static_cast<size_t>(std::count(before.begin(), before.end(), '\n')) + 1, CountCharacters(line) + 1};
}

}  // namespace duo::jinja
