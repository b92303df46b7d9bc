// Filters that make or change texts.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/library/arguments.h"
#include "runtime/text/jinja/library/format.h"
#include "runtime/text/jinja/library/library.h"
#include "runtime/text/jinja/library/operators.h"
#include "runtime/text/jinja/library/string_search.h"
#include "runtime/text/jinja/library/walk.h"
#include "runtime/text/jinja/values/characters.h"
#include "runtime/text/jinja/values/print.h"
#include "runtime/text/unicode/unicode.h"

namespace duo::jinja {
namespace {

// A str as it is, everything else as str() has it.
Value SoftStr(Run& run, const Value& of) {
  if (of.is_string()) return of;
  Text text;
  return run.Str(of, &text) ? Value::Str(std::move(text)) : Value();
}

Value PlainStr(Run& run, const Value& of) {
  if (of.is_string() && !of.safe()) return of;
  Text text;
  return run.Str(of, &text) ? Value::Str(std::move(text)) : Value();
}

// A filter that is a method of str, put on what str() makes of the value.
template <const char* const& name>
Value AsMethod(Run& run, const Value& of, const Arguments& arguments) {
  const Value text = SoftStr(run, of);
  return run.failed() ? Value() : run.Call(StringMethod(text, name), arguments);
}

constexpr const char* kUpper = "upper";
constexpr const char* kLower = "lower";
constexpr const char* kCapitalize = "capitalize";

Value StringFilter(Run& run, const Value& of, const Arguments& arguments) {
  return Bind(run, "string", arguments, {}) ? SoftStr(run, of) : Value();
}

Value TrimFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value chars = Value::None();
  if (!Bind(run, "trim", arguments, {{"chars", &chars}})) return Value();
  const Value text = SoftStr(run, of);
  return run.failed() ? Value() : run.Call(StringMethod(text, "strip"), {{chars}, {}});
}

Value CenterFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value width = Value::Int(80);
  if (!Bind(run, "center", arguments, {{"width", &width}})) return Value();
  const Value text = SoftStr(run, of);
  return run.failed() ? Value() : run.Call(StringMethod(text, "center"), {{width}, {}});
}

// Each word begins large and goes on small; a word begins behind white space and opening brackets only.
Value TitleFilter(Run& run, const Value& of, const Arguments& arguments) {
  if (!Bind(run, "title", arguments, {})) return Value();
  const Value value = SoftStr(run, of);
  if (run.failed() || !run.Charge(4 * value.weight())) return Value();
  const Text& text = value.text();
  const std::string& bytes = text.bytes();
  Text out;
  const auto add_word = [&](size_t begin, size_t end) {
    if (begin == end) return;
    size_t first = begin;
    NextCodePoint(bytes, &first);
    out.Append(ChangeCase(text.Part(begin, first), Case::kUpper));
    out.Append(ChangeCase(text.Part(first, end), Case::kLower));
  };
  size_t begin = 0;
  for (size_t i = 0; i < bytes.size();) {
    const size_t at = i;
    const char32_t c = NextCodePoint(bytes, &i);
    if (!IsSpace(c) && (c >= 0x80 || std::string_view("-({[<").find(static_cast<char>(c)) == std::string_view::npos))
      continue;
    add_word(begin, at);
    out.AppendPart(text, at, i);
    begin = i;
  }
  add_word(begin, bytes.size());
  return run.Make(std::move(out));
}

Value ReplaceFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value old, with, count = Value::None();
  if (!Bind(run, "replace", arguments, {{"old", &old, true}, {"new", &with, true}, {"count", &count}})) return Value();
  const Value text = PlainStr(run, of);
  old = PlainStr(run, old);
  with = PlainStr(run, with);
  if (run.failed()) return Value();
  return run.Call(StringMethod(text, "replace"), {{old, with, count.is_none() ? Value::Int(-1) : count}, {}});
}

Value IndentFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value width = Value::Int(4), first = Value::Bool(false), blank = Value::Bool(false);
  if (!Bind(run, "indent", arguments, {{"width", &width}, {"first", &first}, {"blank", &blank}})) return Value();
  if (!StringOf(run, "indent", of)) return Value();
  Text indent;
  if (width.is_string()) {
    indent = width.text();
  } else {
    int64_t wide = 0;
    if (!IntegerOf(run, "indent", width, &wide) || (wide > 0 && !run.CanMake(static_cast<size_t>(wide))))
      return Value();
    indent = Text(std::string(static_cast<size_t>(std::max<int64_t>(wide, 0)), ' '));
  }
  Text whole = of.text();
  whole.Append("\n", Origin::kTemplate);
  const std::vector<Text> lines = SplitLines(whole, false);
  Text out;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.Append("\n", Origin::kTemplate);
    if (i == 0 ? IsTrue(first) : IsTrue(blank) || !lines[i].empty()) out.Append(indent);
    out.Append(lines[i]);
    if (!run.Charge(1 + static_cast<int64_t>(indent.size() / 32)) || out.size() > run.most_bytes()) break;
  }
  return run.Make(std::move(out), of.safe());
}

Value TruncateFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value length_value = Value::Int(255), kill = Value::Bool(false), end = Value::Str("..."),
        leeway_value = Value::None();
  if (!Bind(run, "truncate", arguments,
            {{"length", &length_value}, {"killwords", &kill}, {"end", &end}, {"leeway", &leeway_value}}) ||
      !StringOf(run, "truncate", of) || !StringOf(run, "truncate", end))
    return Value();
  int64_t length = 0, leeway = 5;
  if (!IntegerOf(run, "truncate", length_value, &length) ||
      (!leeway_value.is_none() && !IntegerOf(run, "truncate", leeway_value, &leeway)))
    return Value();
  const int64_t tail = static_cast<int64_t>(CountCharacters(end.bytes()));
  if (length < tail || leeway < 0)
    return run.Fail("truncate: the length is less than that of the end, or the leeway negative");
  if (static_cast<int64_t>(CountCharacters(of.bytes())) <= length + leeway) return of;
  Text out = of.text().Part(0, ByteOfCharacter(of.bytes(), static_cast<size_t>(length - tail)));
  if (!IsTrue(kill)) {
    if (const size_t blank = out.bytes().rfind(' '); blank != std::string::npos) out = out.Part(0, blank);
  }
  out.Append(EscapeFor(of, end));
  return run.Make(std::move(out), of.safe());
}

Value JoinFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value separator = Value::Str(""), attribute = Value::None();
  if (!Bind(run, "join", arguments, {{"d", &separator}, {"attribute", &attribute}})) return Value();
  Value source = of;
  if (!attribute.is_none()) source = run.Filter("map", of, {{}, {{"attribute", attribute}}});
  const Value between = PlainStr(run, separator);
  std::vector<Value> items;
  if (run.failed() || !ItemsOf(run, source, &items)) return Value();
  Text out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out.Append(between.text());
    if (!run.Charge(1 + static_cast<int64_t>(between.text().size() / 32)) || !run.Str(items[i], &out)) return Value();
  }
  return run.Make(std::move(out));
}

Value SafeFilter(Run& run, const Value& of, const Arguments& arguments) {
  Text text;
  return Bind(run, "safe", arguments, {}) && run.Str(of, &text) ? run.Make(std::move(text), true) : Value();
}

Value EscapeFilter(Run& run, const Value& of, const Arguments& arguments) {
  if (!Bind(run, "escape", arguments, {}) || of.safe()) return of;
  Text text;
  return run.Str(of, &text) ? run.Make(EscapeHtml(text), true) : Value();
}

Value ForceEscapeFilter(Run& run, const Value& of, const Arguments& arguments) {
  Text text;
  return Bind(run, "forceescape", arguments, {}) && run.Str(of, &text) ? run.Make(EscapeHtml(text), true) : Value();
}

Value ToJsonFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value ascii = Value::Bool(false), indent = Value::None(), separators = Value::None(), sort = Value::Bool(false);
  if (!Bind(run, "tojson", arguments,
            {{"ensure_ascii", &ascii}, {"indent", &indent}, {"separators", &separators}, {"sort_keys", &sort}}))
    return Value();
  JsonStyle style;
  style.ascii = IsTrue(ascii);
  style.sort_keys = IsTrue(sort);
  if (indent.is_string()) {
    style.indent = indent.bytes();
  } else if (!indent.is_none()) {
    int64_t width = 0;
    if (!IntegerOf(run, "tojson", indent, &width)) return Value();
    if (width > 1000) return run.Fail("tojson: the indent is larger than 1,000");
    style.indent = std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  if (style.indent.has_value()) style.item_separator = ",";
  if (!separators.is_none()) {
    std::vector<Value> pair;
    if (!ItemsOf(run, separators, &pair)) return Value();
    if (pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string())
      return run.Fail("tojson: the separators are not two texts");
    style.item_separator = pair[0].bytes();
    style.key_separator = pair[1].bytes();
  }
  Text out;
  std::string why;
  if (of.is_undefined()) return run.Fail(of.why());
  if (!run.Charge(of.weight())) return Value();
  if (!AppendJson(of, style, run.most_bytes(), &out, &why)) return run.Fail(std::move(why));
  return run.Make(std::move(out));
}

Value FormatFilter(Run& run, const Value& of, const Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty())
    return run.Fail("format takes values with names or without, not both");
  const Value text = SoftStr(run, of);
  if (run.failed()) return Value();
  if (arguments.named.empty()) return FormatPercent(run, text, Value::Tuple(arguments.positional));
  auto named = std::make_shared<Dict>();
  for (const auto& [name, value] : arguments.named) named->Set(Value::Str(name), value);
  return FormatPercent(run, text, Value::Of(std::shared_ptr<const Dict>(std::move(named))));
}

Value WordCountFilter(Run& run, const Value& of, const Arguments& arguments) {
  if (!Bind(run, "wordcount", arguments, {})) return Value();
  const Value text = SoftStr(run, of);
  if (run.failed() || !run.Charge(text.weight())) return Value();
  int64_t count = 0;
  bool in_word = false;
  for (size_t i = 0; i < text.text().size();) {
    const char32_t c = NextCodePoint(text.bytes(), &i);
    const bool word = c == '_' || IsAlphabetic(c) || IsNumeric(c);
    count += word && !in_word;
    in_word = word;
  }
  return Value::Int(count);
}

void AppendQuoted(const Text& text, bool query, Text* out) {
  OriginCursor origins(text);
  for (size_t i = 0; i < text.size(); ++i) {
    const unsigned char c = static_cast<unsigned char>(text.bytes()[i]);
    const bool plain = std::isalnum(c) != 0 || c == '_' || c == '.' || c == '-' || c == '~' || (c == '/' && !query);
    char escaped[4] = {static_cast<char>(c), 0, 0, 0};
    if (query && c == ' ') {
      escaped[0] = '+';
    } else if (!plain) {
      std::snprintf(escaped, sizeof(escaped), "%%%02X", c);
    }
    out->Append(escaped, origins.At(i));
  }
}

Value UrlEncodeFilter(Run& run, const Value& of, const Arguments& arguments) {
  if (!Bind(run, "urlencode", arguments, {})) return Value();
  Text out;
  if (of.is_string() || !IsIterable(of)) {
    const Value text = SoftStr(run, of);
    if (run.failed() || !run.Charge(4 * text.weight())) return Value();
    AppendQuoted(text.text(), false, &out);
    return run.Make(std::move(out));
  }
  std::vector<Value> items;
  if (of.is(Kind::kDict)) {
    for (const auto& [key, value] : of.dict().entries()) items.push_back(Value::Tuple({key, value}));
  } else if (!ItemsOf(run, of, &items)) {
    return Value();
  }
  for (size_t i = 0; i < items.size(); ++i) {
    std::vector<Value> pair;
    if (!ItemsOf(run, items[i], &pair)) return Value();
    if (pair.size() != 2) return run.Fail("urlencode: expected pairs of a key and a value");
    if (i > 0) out.Append("&", Origin::kTemplate);
    for (size_t k = 0; k < 2; ++k) {
      const Value text = SoftStr(run, pair[k]);
      if (run.failed() || !run.Charge(4 * text.weight())) return Value();
      AppendQuoted(text.text(), true, &out);
      if (k == 0) out.Append("=", Origin::kTemplate);
    }
  }
  return run.Make(std::move(out));
}

Value XmlAttributesFilter(Run& run, const Value& of, const Arguments& arguments) {
  Value space = Value::Bool(true);
  if (!Bind(run, "xmlattr", arguments, {{"autospace", &space}})) return Value();
  if (!of.is(Kind::kDict)) return run.Fail(of.is_undefined() ? of.why() : "xmlattr needs a dict");
  Text out;
  for (const auto& [key, value] : of.dict().entries()) {
    if (value.is_none() || value.is_undefined()) continue;
    if (!StringOf(run, "xmlattr", key)) return Value();
    if (key.bytes().find_first_of(" \t\n\r\f\v/>=") != std::string::npos)
      return run.Fail("xmlattr: a key has a character that no attribute's name may have");
    if (IsTrue(space) || !out.empty()) out.Append(" ", Origin::kTemplate);
    Text text;
    if (!run.Str(value, &text)) return Value();
    out.Append(key.safe() ? key.text() : EscapeHtml(key.text()));
    out.Append("=\"", Origin::kTemplate);
    out.Append(value.safe() ? text : EscapeHtml(text));
    out.Append("\"", Origin::kTemplate);
  }
  return run.Make(std::move(out));
}

Value UnsupportedFilter(Run& run, const Value&, const Arguments&) {
  return run.Fail("the filters pprint, striptags, urlize and wordwrap are not supported in chat templates");
}

}  // namespace

std::initializer_list<NamedFilter> TextFilters() {
  static constexpr std::initializer_list<NamedFilter> kFilters = {
      {"capitalize", AsMethod<kCapitalize>},
      {"center", CenterFilter},
      {"e", EscapeFilter},
      {"escape", EscapeFilter},
      {"forceescape", ForceEscapeFilter},
      {"format", FormatFilter},
      {"indent", IndentFilter},
      {"join", JoinFilter},
      {"lower", AsMethod<kLower>},
      {"pprint", UnsupportedFilter},
      {"replace", ReplaceFilter},
      {"safe", SafeFilter},
      {"string", StringFilter},
      {"striptags", UnsupportedFilter},
      {"title", TitleFilter},
      {"tojson", ToJsonFilter},
      {"trim", TrimFilter},
      {"truncate", TruncateFilter},
      {"upper", AsMethod<kUpper>},
      {"urlencode", UrlEncodeFilter},
      {"urlize", UnsupportedFilter},
      {"wordcount", WordCountFilter},
      {"wordwrap", UnsupportedFilter},
      {"xmlattr", XmlAttributesFilter},
  };
  return kFilters;
}

}  // namespace duo::jinja
