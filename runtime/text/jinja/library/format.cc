#include "runtime/text/jinja/library/format.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/library/operators.h"
#include "runtime/text/jinja/values/characters.h"
#include "runtime/text/jinja/values/print.h"
#include "runtime/text/unicode/unicode.h"

namespace duo::jinja {
namespace {

constexpr int kWidest = 1000;

bool ReadNumber(Run& run, const std::string& text, size_t* at, int* number) {
  *number = 0;
  while (*at < text.size() && text[*at] >= '0' && text[*at] <= '9') {
    *number = *number * 10 + (text[(*at)++] - '0');
    if (*number <= kWidest) continue;
    run.Fail(absl::StrCat("a format asks for a width or precision of more than ", kWidest));
    return false;
  }
  return true;
}

bool Repr(Run& run, const Value& value, Text* out) {
  std::string why;
  if (AppendRepr(value, run.most_bytes(), out, &why)) return run.CanMake(out->size());
  run.Fail(std::move(why));
  return false;
}

Text FirstCharacters(const Text& text, int count) {
  return count < 0 ? text : text.Part(0, ByteOfCharacter(text.bytes(), static_cast<size_t>(count)));
}

class PercentFormatter {
 public:
  PercentFormatter(Run& run, const Value& format, const Value& arguments)
      : run_(run), safe_(format.safe()), text_(format.text()), arguments_(arguments) {}

  Value Format() {
    const std::string& bytes = text_.bytes();
    size_t at = 0;
    Text out;
    while (!run_.failed()) {
      const size_t percent = bytes.find('%', at);
      if (percent == std::string::npos) break;
      out.AppendPart(text_, at, percent);
      at = percent + 1;
      One(&at, &out);
      if (!run_.failed()) run_.CanMake(out.size());
    }
    if (run_.failed()) return Value();
    out.AppendPart(text_, at, bytes.size());
    const size_t given = arguments_.is_tuple() ? arguments_.sequence().items.size() : 1;
    const bool mapping = !arguments_.is_tuple() && !arguments_.is_string() &&
                         (arguments_.is(Kind::kDict) || arguments_.is(Kind::kSequence));
    if (next_ < given && !mapping) return run_.Fail("a format was given more values than it has places");
    return run_.Make(std::move(out), safe_);
  }

 private:
  Value NextArgument() {
    if (!arguments_.is_tuple()) {
      if (next_++ == 0) return arguments_;
    } else if (next_ < arguments_.sequence().items.size()) {
      return arguments_.sequence().items[next_++];
    }
    return run_.Fail("a format was given fewer values than it has places");
  }

  // A number or the * that stands for one.
  bool Number(size_t* at, int* number) {
    const std::string& bytes = text_.bytes();
    if (*at >= bytes.size() || bytes[*at] != '*') return ReadNumber(run_, bytes, at, number);
    ++*at;
    const Value value = NextArgument();
    if (run_.failed()) return false;
    if (!value.is_integral() || std::llabs(value.integer()) > kWidest) {
      run_.Fail("a format's * was given no width");
      return false;
    }
    *number = static_cast<int>(value.integer());
    return true;
  }

  void One(size_t* at, Text* out) {
    const std::string& bytes = text_.bytes();
    FormatSpec spec;
    Value value;
    if (*at < bytes.size() && bytes[*at] == '(') {
      int depth = 1;
      size_t close = *at + 1;
      for (; close < bytes.size(); ++close) {
        depth += bytes[close] == '(' ? 1 : bytes[close] == ')' ? -1 : 0;
        if (depth == 0) break;
      }
      if (close >= bytes.size() || !arguments_.is(Kind::kDict)) {
        run_.Fail("a format with names needs a dict");
        return;
      }
      const Value* found = arguments_.dict().Find(bytes.substr(*at + 1, close - *at - 1));
      if (found == nullptr) {
        run_.Fail("a format names what the dict does not have");
        return;
      }
      value = *found;
      *at = close + 1;
    }
    bool zero = false;
    for (; *at < bytes.size() && std::string_view("-+ #0").find(bytes[*at]) != std::string_view::npos; ++*at) {
      const char c = bytes[*at];
      if (c == '-') spec.align = '<';
      if (c == '+' || (c == ' ' && spec.sign != '+')) spec.sign = c;
      spec.alternate |= c == '#';
      zero |= c == '0';
    }
    if (!Number(at, &spec.width)) return;
    if (spec.width < 0) {
      spec.align = '<';
      spec.width = -spec.width;
    }
    if (*at < bytes.size() && bytes[*at] == '.') {
      ++*at;
      if (!Number(at, &spec.precision)) return;
    }
    while (*at < bytes.size() && std::string_view("hlL").find(bytes[*at]) != std::string_view::npos) ++*at;
    if (*at >= bytes.size()) {
      run_.Fail("a format ends within a place");
      return;
    }
    const char type = bytes[(*at)++];
    if (type == '%') {
      out->Append("%", Origin::kTemplate);
      return;
    }
    if (value.is_missing()) value = NextArgument();
    if (run_.failed()) return;
    Write(type, zero, spec, value, out);
  }

  void Write(char type, bool zero, FormatSpec spec, const Value& value, Text* out) {
    if (type == 's' || type == 'r' || (type == 'c' && value.is_string())) {
      if (type == 'c' && CountCharacters(value.bytes()) != 1) {
        run_.Fail("%c needs one character");
        return;
      }
      Text text;
      if (!(type == 'r' ? Repr(run_, value, &text) : run_.Str(value, &text))) return;
      if (safe_ && !value.safe() && !value.is_number()) text = EscapeHtml(text);
      out->Append(Pad(spec, FirstCharacters(text, spec.precision), 0, '>'));
      return;
    }
    const bool whole = std::string_view("diuxXoc").find(type) != std::string_view::npos;
    if (value.is_undefined()) {
      run_.Fail(value.why());
      return;
    }
    if (!value.is_number() || (type != 'd' && type != 'i' && type != 'u' && whole && value.is(Kind::kFloat))) {
      run_.Fail(absl::StrCat("%", std::string(1, type), " needs a number, found a ", TypeName(value)));
      return;
    }
    Value number = value;
    if (whole && value.is(Kind::kFloat)) {
      if (!(std::fabs(value.real()) < 9.2e18)) {
        run_.Fail("a number is too large for a format");
        return;
      }
      number = Value::Int(static_cast<int64_t>(value.real()));
    } else if (!whole && value.is_integral()) {
      number = Value::Float(value.real());
    }
    const int digits = whole ? spec.precision : -1;
    if (whole) spec.precision = -1;
    spec.type = type == 'i' || type == 'u' ? 'd' : type;
    std::string text;
    size_t prefix = 0;
    if (!FormatNumber(spec, number, &text, &prefix)) {
      run_.Fail(absl::StrCat("a format's type ", std::string(1, type), " is not known"));
      return;
    }
    if (const int have = static_cast<int>(text.size() - prefix); digits > have) text.insert(prefix, digits - have, '0');
    if (zero && spec.align == 0) {
      spec.align = '=';
      spec.fill = "0";
    }
    out->Append(Pad(spec, Text(text), prefix, '>'));
  }

  Run& run_;
  const bool safe_;
  const Text& text_;
  const Value& arguments_;
  size_t next_ = 0;
};

class BraceFormatter {
 public:
  BraceFormatter(Run& run, bool safe, const Arguments& arguments) : run_(run), safe_(safe), arguments_(arguments) {}

  // nested: within a place's specification, where another level is no longer read.
  bool Format(const Text& text, int nested, Text* out) {
    const std::string& bytes = text.bytes();
    for (size_t at = 0; at < bytes.size() && !run_.failed();) {
      const size_t brace = std::min(bytes.find_first_of("{}", at), bytes.size());
      out->AppendPart(text, at, brace);
      if (brace == bytes.size()) break;
      at = brace + 1;
      if (at < bytes.size() && bytes[at] == bytes[brace]) {
        out->AppendPart(text, brace, at);
        ++at;
        continue;
      }
      if (bytes[brace] == '}' || nested > 1) return Fail("a format has a brace without its fellow");
      int depth = 1;
      size_t close = at;
      for (; close < bytes.size(); ++close) {
        depth += bytes[close] == '{' ? 1 : bytes[close] == '}' ? -1 : 0;
        if (depth == 0) break;
      }
      if (depth != 0) return Fail("a format has a brace without its fellow");
      if (!Place(text.Part(at, close), nested, out)) return false;
      at = close + 1;
      if (!run_.CanMake(out->size())) return false;
    }
    return !run_.failed();
  }

 private:
  bool Fail(std::string message) {
    run_.Fail(std::move(message));
    return false;
  }

  bool Place(const Text& inside, int nested, Text* out) {
    const std::string& bytes = inside.bytes();
    size_t field_end = 0;
    for (bool in_brackets = false; field_end < bytes.size(); ++field_end) {
      const char c = bytes[field_end];
      if (c == '[') in_brackets = true;
      if (c == ']') in_brackets = false;
      if (!in_brackets && (c == '!' || c == ':')) break;
    }
    size_t spec_at = field_end;
    char conversion = 0;
    if (spec_at < bytes.size() && bytes[spec_at] == '!') {
      conversion = spec_at + 1 < bytes.size() ? bytes[spec_at + 1] : '?';
      if (conversion != 's' && conversion != 'r') return Fail("a format's conversion is neither !s nor !r");
      spec_at += 2;
      if (spec_at < bytes.size() && bytes[spec_at] != ':') return Fail("expected : behind a format's conversion");
    }
    Value value;
    if (!Field(bytes.substr(0, field_end), &value)) return false;
    Text spec;
    if (spec_at < bytes.size() && !Format(inside.Part(spec_at + 1, bytes.size()), nested + 1, &spec)) return false;
    if (conversion != 0) {
      Text text;
      if (!(conversion == 'r' ? Repr(run_, value, &text) : run_.Str(value, &text))) return false;
      value = Value::Str(std::move(text));
    }
    return Write(value, spec.bytes(), out);
  }

  bool Field(const std::string& field, Value* value) {
    size_t at = std::min(field.find_first_of(".["), field.size());
    const std::string first = field.substr(0, at);
    const bool number = first.find_first_not_of("0123456789") == std::string::npos;
    if (number) {
      if (first.size() > 6 || (first.empty() ? next_ < 0 : next_ > 0))
        return Fail("a format numbers some places and not others");
      size_t index = 0;
      if (first.empty()) {
        index = static_cast<size_t>(next_++);
      } else {
        next_ = -1;
        index = static_cast<size_t>(std::stoi(first));
      }
      if (index >= arguments_.positional.size()) return Fail("a format was given fewer values than it has places");
      *value = arguments_.positional[index];
    } else {
      bool found = false;
      for (const auto& [name, held] : arguments_.named) {
        if (name != first) continue;
        *value = held;
        found = true;
      }
      if (!found) return Fail(absl::StrCat("a format names ", first, ", which it was not given"));
    }
    while (at < field.size() && !run_.failed()) {
      if (field[at] == '.') {
        const size_t end = std::min(field.find_first_of(".[", at + 1), field.size());
        *value = run_.GetAttribute(*value, field.substr(at + 1, end - at - 1));
        at = end;
      } else {
        const size_t end = field.find(']', at);
        if (field[at] != '[' || end == std::string::npos) return Fail("a format's place cannot be read");
        const std::string key = field.substr(at + 1, end - at - 1);
        const bool index = !key.empty() && key.size() < 10 && key.find_first_not_of("0123456789") == std::string::npos;
        *value = run_.GetItem(*value, index ? Value::Int(std::stoi(key)) : Value::Str(key));
        at = end + 1;
      }
    }
    return !run_.failed();
  }

  bool ReadSpec(const std::string& text, FormatSpec* spec) {
    size_t at = 0, after_fill = 0;
    constexpr std::string_view kAligns = "<>^=";
    if (!text.empty()) NextCodePoint(text, &after_fill);
    if (after_fill < text.size() && kAligns.find(text[after_fill]) != std::string_view::npos) {
      spec->fill = text.substr(0, after_fill);
      spec->align = text[after_fill];
      at = after_fill + 1;
    } else if (!text.empty() && kAligns.find(text[0]) != std::string_view::npos) {
      spec->align = text[0];
      at = 1;
    }
    if (at < text.size() && std::string_view("+- ").find(text[at]) != std::string_view::npos) spec->sign = text[at++];
    if (at < text.size() && text[at] == '#') {
      spec->alternate = true;
      ++at;
    }
    if (at < text.size() && text[at] == '0') {
      if (spec->align == 0) {
        spec->align = '=';
        spec->fill = "0";
      }
      ++at;
    }
    if (!ReadNumber(run_, text, &at, &spec->width)) return false;
    if (at < text.size() && (text[at] == ',' || text[at] == '_')) spec->grouping = text[at++];
    if (at < text.size() && text[at] == '.') {
      ++at;
      if (!ReadNumber(run_, text, &at, &spec->precision)) return false;
    }
    if (at < text.size()) spec->type = text[at++];
    return at == text.size() || Fail("a format's specification cannot be read");
  }

  bool Write(const Value& value, const std::string& spec_text, Text* out) {
    Text text;
    if (spec_text.empty()) {
      if (!run_.Str(value, &text)) return false;
      out->Append(safe_ && !value.safe() ? EscapeHtml(text) : text);
      return true;
    }
    FormatSpec spec;
    if (!ReadSpec(spec_text, &spec)) return false;
    if (value.is_string()) {
      if ((spec.type != 0 && spec.type != 's') || spec.align == '=' || spec.grouping != 0 || spec.sign != '-')
        return Fail("a format's specification does not fit a str");
      text = Pad(spec, FirstCharacters(value.text(), spec.precision), 0, '<');
      out->Append(safe_ && !value.safe() ? EscapeHtml(text) : text);
      return true;
    }
    std::string number;
    size_t prefix = 0;
    if (!value.is_number() || !FormatNumber(spec, value, &number, &prefix))
      return Fail(absl::StrCat("a format's specification does not fit a ", TypeName(value)));
    out->Append(Pad(spec, Text(number), prefix, '>'));
    return true;
  }

  Run& run_;
  const bool safe_;
  const Arguments& arguments_;
  int next_ = 0;  // of places without a number; -1 once one has a number
};

}  // namespace

Value FormatPercent(Run& run, const Value& format, const Value& arguments) {
  return PercentFormatter(run, format, arguments).Format();
}

Value FormatBraces(Run& run, const Value& format, const Arguments& arguments) {
  Text out;
  if (!BraceFormatter(run, format.safe(), arguments).Format(format.text(), 0, &out)) return Value();
  return run.Make(std::move(out), format.safe());
}

}  // namespace duo::jinja
