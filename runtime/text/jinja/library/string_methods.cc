// The methods of str. Of a Markup they give a Markup.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/library/arguments.h"
#include "runtime/text/jinja/library/format.h"
#include "runtime/text/jinja/library/library.h"
#include "runtime/text/jinja/library/operators.h"
#include "runtime/text/jinja/library/string_search.h"
#include "runtime/text/jinja/library/walk.h"
#include "runtime/text/jinja/values/characters.h"
#include "runtime/text/unicode/unicode.h"

namespace duo::jinja {
namespace {

constexpr int64_t kNoEnd = std::numeric_limits<int64_t>::max();

Value ListOf(Run& run, std::vector<Text> parts, bool safe) {
  std::vector<Value> items;
  for (Text& part : parts) items.push_back(Value::Str(std::move(part), safe));
  return run.MakeList(std::move(items));
}

template <Case to>
Value ToCase(Run& run, const Value& self, const Arguments& arguments) {
  if (!Bind(run, "a str's method", arguments, {}) || !run.Charge(4 * self.weight())) return Value();
  return run.Make(ChangeCase(self.text(), to), self.safe());
}

template <bool left, bool right>
Value StripMethod(Run& run, const Value& self, const Arguments& arguments) {
  Value chars = Value::None();
  if (!Bind(run, "strip", arguments, {{"chars", &chars, false, false}})) return Value();
  if (!chars.is_none() && !StringOf(run, "strip", chars)) return Value();
  const int64_t each = chars.is_none() ? 0 : static_cast<int64_t>(chars.text().size());
  if (each > 64 && !run.Charge(each * static_cast<int64_t>(self.text().size()) / 16)) return Value();
  return run.Make(Strip(self.text(), chars.is_none() ? nullptr : &chars.bytes(), left, right), self.safe());
}

template <bool from_right>
Value SplitMethod(Run& run, const Value& self, const Arguments& arguments) {
  Value separator = Value::None(), most = Value::Int(-1);
  if (!Bind(run, "split", arguments, {{"sep", &separator}, {"maxsplit", &most}})) return Value();
  int64_t limit = 0;
  if (!IntegerOf(run, "split", most, &limit)) return Value();
  if (!separator.is_none() && !StringOf(run, "split", separator)) return Value();
  std::vector<Text> parts;
  if (!Split(run, self.text(), separator.is_none() ? nullptr : &separator.bytes(), limit, from_right, &parts))
    return Value();
  return ListOf(run, std::move(parts), self.safe());
}

Value SplitLinesMethod(Run& run, const Value& self, const Arguments& arguments) {
  Value keep = Value::Bool(false);
  if (!Bind(run, "splitlines", arguments, {{"keepends", &keep}}) || !run.CanMake(self.text().size())) return Value();
  return ListOf(run, SplitLines(self.text(), IsTrue(keep)), self.safe());
}

template <bool from_right>
Value PartitionMethod(Run& run, const Value& self, const Arguments& arguments) {
  Value separator;
  if (!Bind(run, "partition", arguments, {{"sep", &separator, true, false}}) || !StringOf(run, "partition", separator))
    return Value();
  if (separator.text().empty()) return run.Fail("partition: the separator is empty");
  if (!run.CanMake(self.text().size())) return Value();
  const Text& text = self.text();
  const bool safe = self.safe();
  const size_t at = from_right ? text.bytes().rfind(separator.bytes()) : text.bytes().find(separator.bytes());
  const Value empty = Value::Str(Text(), safe);
  if (at == std::string::npos)
    return from_right ? Value::Tuple({empty, empty, self}) : Value::Tuple({self, empty, empty});
  const size_t past = at + separator.text().size();
  return Value::Tuple({Value::Str(text.Part(0, at), safe), Value::Str(separator.text(), safe),
                       Value::Str(text.Part(past, text.size()), safe)});
}

// The arguments (what, start, stop) of find, count, startswith and their like.
bool BindSearch(Run& run, const char* name, const Arguments& arguments, Value* what, int64_t* start, int64_t* stop) {
  Value from = Value::None(), to = Value::None();
  if (!Bind(run, name, arguments,
            {{"sub", what, true, false}, {"start", &from, false, false}, {"end", &to, false, false}}))
    return false;
  *start = 0;
  *stop = kNoEnd;
  return (from.is_none() || IntegerOf(run, name, from, start)) && (to.is_none() || IntegerOf(run, name, to, stop));
}

template <bool at_start>
Value AffixMethod(Run& run, const Value& self, const Arguments& arguments) {
  const char* name = at_start ? "startswith" : "endswith";
  Value what;
  int64_t start = 0, stop = 0;
  size_t begin = 0, end = 0;
  if (!BindSearch(run, name, arguments, &what, &start, &stop)) return Value();
  const bool inside = start == 0 && stop == kNoEnd ? (end = self.text().size(), true)
                                                   : CutByBounds(self.bytes(), start, stop, &begin, &end);
  const std::string_view text = std::string_view(self.bytes()).substr(begin, end - begin);
  const std::vector<Value> one = {what};
  if (!what.is_string() && !what.is_tuple()) return run.Fail(absl::StrCat(name, ": expected a str or a tuple of them"));
  for (const Value& affix : what.is_tuple() ? what.sequence().items : one) {
    if (!StringOf(run, name, affix)) return Value();
    if (inside && (at_start ? text.starts_with(affix.bytes()) : text.ends_with(affix.bytes())))
      return Value::Bool(true);
  }
  return Value::Bool(false);
}

template <bool from_right, bool must>
Value FindMethod(Run& run, const Value& self, const Arguments& arguments) {
  Value what;
  int64_t start = 0, stop = 0;
  size_t begin = 0, end = 0;
  if (!BindSearch(run, "find", arguments, &what, &start, &stop) || !StringOf(run, "find", what)) return Value();
  if (!run.Charge(self.weight())) return Value();
  const std::string_view text = self.bytes();
  size_t at = std::string_view::npos;
  if (CutByBounds(text, start, stop, &begin, &end)) {
    const std::string_view part = text.substr(begin, end - begin);
    at = from_right ? part.rfind(what.bytes()) : part.find(what.bytes());
  }
  if (at == std::string_view::npos) return must ? run.Fail("index: the text is not in the str") : Value::Int(-1);
  return Value::Int(static_cast<int64_t>(CountCharacters(text.substr(0, begin + at))));
}

Value CountMethod(Run& run, const Value& self, const Arguments& arguments) {
  Value what;
  int64_t start = 0, stop = 0;
  size_t begin = 0, end = 0;
  if (!BindSearch(run, "count", arguments, &what, &start, &stop) || !StringOf(run, "count", what)) return Value();
  if (!run.Charge(self.weight()) || !CutByBounds(self.bytes(), start, stop, &begin, &end)) return Value::Int(0);
  const std::string_view part = std::string_view(self.bytes()).substr(begin, end - begin);
  if (what.text().empty()) return Value::Int(static_cast<int64_t>(CountCharacters(part)) + 1);
  int64_t count = 0;
  for (size_t at = part.find(what.bytes()); at != std::string_view::npos;
       at = part.find(what.bytes(), at + what.text().size()))
    ++count;
  return Value::Int(count);
}

Value ReplaceMethod(Run& run, const Value& self, const Arguments& arguments) {
  Value old, with, most = Value::Int(-1);
  if (!Bind(run, "replace", arguments, {{"old", &old, true, false}, {"new", &with, true, false}, {"count", &most}}))
    return Value();
  int64_t limit = 0;
  if (!StringOf(run, "replace", old) || !StringOf(run, "replace", with) || !IntegerOf(run, "replace", most, &limit))
    return Value();
  Text out;
  if (!ReplaceAll(run, self.text(), old.bytes(), EscapeFor(self, with), limit, &out)) return Value();
  return run.Make(std::move(out), self.safe());
}

Value JoinMethod(Run& run, const Value& self, const Arguments& arguments) {
  Value of;
  std::vector<Value> items;
  if (!Bind(run, "join", arguments, {{"iterable", &of, true, false}}) || !ItemsOf(run, of, &items)) return Value();
  Text out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (!StringOf(run, "join", items[i])) return Value();
    if (i > 0) out.Append(self.text());
    out.Append(EscapeFor(self, items[i]));
    if (!run.Charge(1 + static_cast<int64_t>((self.text().size() + items[i].text().size()) / 32))) return Value();
    if (out.size() > run.most_bytes()) break;
  }
  return run.Make(std::move(out), self.safe());
}

template <bool prefix>
Value RemoveMethod(Run& run, const Value& self, const Arguments& arguments) {
  Value affix;
  if (!Bind(run, "removeprefix", arguments, {{"affix", &affix, true, false}}) || !StringOf(run, "removeprefix", affix))
    return Value();
  const size_t n = affix.text().size(), size = self.text().size();
  if (n == 0 || !(prefix ? self.bytes().starts_with(affix.bytes()) : self.bytes().ends_with(affix.bytes())))
    return self;
  return run.Make(prefix ? self.text().Part(n, size) : self.text().Part(0, size - n), self.safe());
}

// align: 1 puts the text to the left, -1 to the right, 0 in the middle.
template <int align>
Value PadMethod(Run& run, const Value& self, const Arguments& arguments) {
  Value width, fill = Value::Str(" ");
  if (!Bind(run, "ljust", arguments, {{"width", &width, true, false}, {"fillchar", &fill, false, false}}))
    return Value();
  int64_t wide = 0;
  if (!IntegerOf(run, "ljust", width, &wide) || !StringOf(run, "ljust", fill)) return Value();
  if (CountCharacters(fill.bytes()) != 1) return run.Fail("ljust: what to fill with is not one character");
  const int64_t missing = wide - static_cast<int64_t>(CountCharacters(self.bytes()));
  if (missing <= 0) return self;
  if (!run.CanMake(static_cast<size_t>(missing) * fill.text().size())) return Value();
  // Python's centre: an odd blank goes left if the width is odd too.
  const int64_t left = align > 0 ? 0 : align < 0 ? missing : missing / 2 + (missing & wide & 1);
  Text out;
  for (int64_t i = 0; i < left; ++i) out.Append(fill.text());
  out.Append(self.text());
  for (int64_t i = left; i < missing; ++i) out.Append(fill.text());
  return run.Make(std::move(out), self.safe());
}

Value ZfillMethod(Run& run, const Value& self, const Arguments& arguments) {
  Value width;
  int64_t wide = 0;
  if (!Bind(run, "zfill", arguments, {{"width", &width, true, false}}) || !IntegerOf(run, "zfill", width, &wide))
    return Value();
  const int64_t missing = wide - static_cast<int64_t>(CountCharacters(self.bytes()));
  if (missing <= 0) return self;
  if (!run.CanMake(static_cast<size_t>(missing))) return Value();
  const size_t sign = self.bytes().starts_with('-') || self.bytes().starts_with('+') ? 1 : 0;
  Text out = self.text().Part(0, sign);
  out.Append(std::string(missing, '0'), Origin::kTemplate);
  out.AppendPart(self.text(), sign, self.text().size());
  return run.Make(std::move(out), self.safe());
}

template <bool (*is)(char32_t)>
Value AllCharacters(Run& run, const Value& self, const Arguments& arguments) {
  if (!Bind(run, "a str's test", arguments, {}) || !run.Charge(self.weight())) return Value();
  const std::string& bytes = self.bytes();
  for (size_t i = 0; i < bytes.size();) {
    if (!is(NextCodePoint(bytes, &i))) return Value::Bool(false);
  }
  return Value::Bool(!bytes.empty());
}

bool IsAlphanumeric(char32_t c) { return IsAlphabetic(c) || IsDecimal(c) || IsDigit(c) || IsNumeric(c); }

// isupper and islower: some letter has that case, and none another.
template <bool (*is)(char32_t), bool (*is_not)(char32_t)>
Value CaseOfAll(Run& run, const Value& self, const Arguments& arguments) {
  if (!Bind(run, "a str's test", arguments, {}) || !run.Charge(self.weight())) return Value();
  const std::string& bytes = self.bytes();
  bool any = false;
  for (size_t i = 0; i < bytes.size();) {
    const char32_t c = NextCodePoint(bytes, &i);
    if (is_not(c) || IsTitle(c)) return Value::Bool(false);
    any |= is(c);
  }
  return Value::Bool(any);
}

Value IsTitleMethod(Run& run, const Value& self, const Arguments& arguments) {
  if (!Bind(run, "istitle", arguments, {}) || !run.Charge(self.weight())) return Value();
  const std::string& bytes = self.bytes();
  bool any = false, in_word = false;
  for (size_t i = 0; i < bytes.size();) {
    const char32_t c = NextCodePoint(bytes, &i);
    const bool large = IsUpper(c) || IsTitle(c), small = IsLower(c);
    if ((large && in_word) || (small && !in_word)) return Value::Bool(false);
    in_word = large || small;
    any |= in_word;
  }
  return Value::Bool(any);
}

Value IsAsciiMethod(Run& run, const Value& self, const Arguments& arguments) {
  if (!Bind(run, "isascii", arguments, {})) return Value();
  const std::string& bytes = self.bytes();
  return Value::Bool(
      std::all_of(bytes.begin(), bytes.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; }));
}

Value IsPrintableMethod(Run& run, const Value& self, const Arguments& arguments) {
  return self.text().empty() ? Value::Bool(true) : AllCharacters<IsPrintable>(run, self, arguments);
}

Value IsIdentifierMethod(Run& run, const Value& self, const Arguments& arguments) {
  Value parts = AllCharacters<IsNamePart>(run, self, arguments);
  if (run.failed() || !parts.boolean()) return parts;
  size_t first = 0;
  return Value::Bool(IsNameStart(NextCodePoint(self.bytes(), &first)));
}

Value ExpandTabsMethod(Run& run, const Value& self, const Arguments& arguments) {
  Value size = Value::Int(8);
  int64_t width = 0;
  if (!Bind(run, "expandtabs", arguments, {{"tabsize", &size}}) || !IntegerOf(run, "expandtabs", size, &width))
    return Value();
  if (width > 1000) return run.Fail("expandtabs: the width is larger than 1,000");
  Text out;
  const std::string& bytes = self.bytes();
  int64_t column = 0;
  for (size_t i = 0; i < bytes.size();) {
    const size_t begin = i;
    const char32_t c = NextCodePoint(bytes, &i);
    if (c == '\t') {
      const int64_t blanks = width > 0 ? width - column % width : 0;
      if (!run.Charge(blanks)) return Value();
      out.Append(std::string(blanks, ' '), Origin::kTemplate);
      column += blanks;
      continue;
    }
    out.AppendPart(self.text(), begin, i);
    column = c == '\n' || c == '\r' ? 0 : column + 1;
  }
  return run.Make(std::move(out), self.safe());
}

Value FormatMethod(Run& run, const Value& self, const Arguments& arguments) {
  return FormatBraces(run, self, arguments);
}

Value FormatMapMethod(Run& run, const Value& self, const Arguments& arguments) {
  Value map;
  if (!Bind(run, "format_map", arguments, {{"mapping", &map, true, false}})) return Value();
  if (!map.is(Kind::kDict)) return run.Fail("format_map needs a dict");
  Arguments named;
  for (const auto& [key, value] : map.dict().entries()) {
    if (key.is_string()) named.named.emplace_back(key.bytes(), value);
  }
  return FormatBraces(run, self, named);
}

Value Unsupported(Run& run, const Value&, const Arguments&) {
  return run.Fail("the methods encode, maketrans and translate of str are not supported in chat templates");
}

struct Entry {
  const char* name;
  Callable::Native method;
};

constexpr Entry kMethods[] = {
    {"capitalize", ToCase<Case::kCapitalized>},
    {"casefold", ToCase<Case::kFolded>},
    {"center", PadMethod<0>},
    {"count", CountMethod},
    {"encode", Unsupported},
    {"endswith", AffixMethod<false>},
    {"expandtabs", ExpandTabsMethod},
    {"find", FindMethod<false, false>},
    {"format", FormatMethod},
    {"format_map", FormatMapMethod},
    {"index", FindMethod<false, true>},
    {"isalnum", AllCharacters<IsAlphanumeric>},
    {"isalpha", AllCharacters<IsAlphabetic>},
    {"isascii", IsAsciiMethod},
    {"isdecimal", AllCharacters<IsDecimal>},
    {"isdigit", AllCharacters<IsDigit>},
    {"isidentifier", IsIdentifierMethod},
    {"islower", CaseOfAll<IsLower, IsUpper>},
    {"isnumeric", AllCharacters<IsNumeric>},
    {"isprintable", IsPrintableMethod},
    {"isspace", AllCharacters<IsSpace>},
    {"istitle", IsTitleMethod},
    {"isupper", CaseOfAll<IsUpper, IsLower>},
    {"join", JoinMethod},
    {"ljust", PadMethod<1>},
    {"lower", ToCase<Case::kLower>},
    {"lstrip", StripMethod<true, false>},
    {"maketrans", Unsupported},
    {"partition", PartitionMethod<false>},
    {"removeprefix", RemoveMethod<true>},
    {"removesuffix", RemoveMethod<false>},
    {"replace", ReplaceMethod},
    {"rfind", FindMethod<true, false>},
    {"rindex", FindMethod<true, true>},
    {"rjust", PadMethod<-1>},
    {"rpartition", PartitionMethod<true>},
    {"rsplit", SplitMethod<true>},
    {"rstrip", StripMethod<false, true>},
    {"split", SplitMethod<false>},
    {"splitlines", SplitLinesMethod},
    {"startswith", AffixMethod<true>},
    {"strip", StripMethod<true, true>},
    {"swapcase", ToCase<Case::kSwapped>},
    {"title", ToCase<Case::kTitle>},
    {"translate", Unsupported},
    {"upper", ToCase<Case::kUpper>},
    {"zfill", ZfillMethod},
};

}  // namespace

Value StringMethod(const Value& of, const std::string& name) {
  for (const Entry& entry : kMethods) {
    if (name == entry.name) return BindMethod(entry.name, entry.method, of);
  }
  return Value();
}

}  // namespace duo::jinja
