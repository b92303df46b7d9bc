#include "runtime/text/jinja/values/print.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <vector>

#include "absl/strings/str_cat.h"
#include "runtime/text/jinja/values/characters.h"
#include "runtime/text/jinja/values/objects.h"
#include "runtime/text/unicode/unicode.h"

namespace duo::jinja {
namespace {

void AppendHex(const char* letter, unsigned code, int digits, std::string* out) {
  char text[16];
  std::snprintf(text, sizeof(text), "\\%s%0*x", letter, digits, code);
  out->append(text);
}

void AppendQuoted(const Text& text, Text* out) {
  const std::string& bytes = text.bytes();
  const bool has_single = bytes.find('\'') != std::string::npos, has_double = bytes.find('"') != std::string::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  out->Append(std::string_view(&quote, 1), Origin::kTemplate);
  OriginCursor origins(text);
  std::string escaped;
  for (size_t i = 0; i < bytes.size();) {
    const size_t begin = i;
    const char32_t c = NextCodePoint(bytes, &i);
    escaped.clear();
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      escaped.push_back('\\');
      escaped.push_back(static_cast<char>(c));
    } else if (c == '\n') {
      escaped = "\\n";
    } else if (c == '\r') {
      escaped = "\\r";
    } else if (c == '\t') {
      escaped = "\\t";
    } else if (IsPrintable(c)) {
      escaped.assign(bytes, begin, i - begin);
    } else if (c < 0x100) {
      AppendHex("x", c, 2, &escaped);
    } else if (c < 0x10000) {
      AppendHex("u", c, 4, &escaped);
    } else {
      AppendHex("U", c, 8, &escaped);
    }
    out->Append(escaped, origins.At(begin));
  }
  out->Append(std::string_view(&quote, 1), Origin::kTemplate);
}

class Printer {
 public:
  Printer(size_t most, Text* out, std::string* why) : most_(most), out_(*out), why_(*why) {}

  bool Str(const Value& value) {
    if (value.is_string()) {
      if (value.text().size() > most_ - std::min(most_, out_.size())) return TooLong();
      out_.Append(value.text());
      return true;
    }
    if (value.is_undefined()) return true;
    return Repr(value);
  }

  bool Repr(const Value& value) {
    if (out_.size() > most_) return TooLong();
    switch (value.kind()) {
      case Kind::kMissing:
      case Kind::kUndefined:
        return Say("Undefined");
      case Kind::kNone:
        return Say("None");
      case Kind::kBool:
        return Say(value.boolean() ? "True" : "False");
      case Kind::kInt:
        return Say(absl::StrCat(value.integer()));
      case Kind::kFloat:
        return Say(FloatText(value.real()));
      case Kind::kString:
        if (value.safe()) Say("Markup(");
        AppendQuoted(value.text(), &out_);
        return !value.safe() || Say(")");
      case Kind::kSequence:
        return ReprSequence(value.sequence());
      case Kind::kDict:
        return ReprDict(value.dict());
      case Kind::kNamespace: {
        // A namespace may hold itself, and then there is no end to print.
        if (++within_ > 50) return TooLong();
        Say("<Namespace {");
        bool first = true;
        for (const auto& [name, held] : value.names().attributes) {
          if (!first) Say(", ");
          first = false;
          AppendQuoted(Text(name), &out_);
          Say(": ");
          if (!Repr(held)) return false;
        }
        --within_;
        return Say("}>");
      }
      case Kind::kCallable:
        if (value.callable().macro != nullptr) {
          if (value.callable().name.empty()) return Say("<Macro anonymous>");
          Say("<Macro ");
          AppendQuoted(Text(value.callable().name), &out_);
          return Say(">");
        }
        [[fallthrough]];
      default:
        why_ = absl::StrCat("a ", TypeName(value), " cannot be printed: its text would be an address");
        return false;
    }
  }

 private:
  bool Say(std::string_view text) {
    out_.Append(text, Origin::kTemplate);
    return true;
  }
  bool TooLong() {
    why_ = absl::StrCat("a text of more than ", most_, " bytes was to be made");
    return false;
  }

  bool Items(const std::vector<Value>& items) {
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) Say(", ");
      if (!Repr(items[i])) return false;
    }
    return true;
  }

  bool ReprSequence(const Sequence& s) {
    switch (s.type) {
      case SequenceType::kRange:
        return Say(s.step == 1 ? absl::StrCat("range(", s.start, ", ", s.stop, ")")
                               : absl::StrCat("range(", s.start, ", ", s.stop, ", ", s.step, ")"));
      case SequenceType::kTuple:
      case SequenceType::kGroup:
        Say("(");
        if (!Items(s.items)) return false;
        return Say(s.items.size() == 1 ? ",)" : ")");
      case SequenceType::kKeys:
        Say("dict_keys(");
        break;
      case SequenceType::kValues:
        Say("dict_values(");
        break;
      case SequenceType::kItems:
        Say("dict_items(");
        break;
      case SequenceType::kList:
        break;
    }
    Say("[");
    if (!Items(s.items)) return false;
    return Say(s.type == SequenceType::kList ? "]" : "])");
  }

  bool ReprDict(const Dict& dict) {
    Say("{");
    bool first = true;
    for (const auto& [key, value] : dict.entries()) {
      if (!first) Say(", ");
      first = false;
      if (!Repr(key)) return false;
      Say(": ");
      if (!Repr(value)) return false;
    }
    return Say("}");
  }

  size_t most_;
  Text& out_;
  std::string& why_;
  int within_ = 0;
};

class JsonPrinter {
 public:
  JsonPrinter(const JsonStyle& style, size_t most, Text* out, std::string* why)
      : style_(style), most_(most), out_(*out), why_(*why) {}

  bool Print(const Value& value, int level) {
    if (out_.size() > most_) {
      why_ = absl::StrCat("a text of more than ", most_, " bytes was to be made");
      return false;
    }
    switch (value.kind()) {
      case Kind::kString:
        Quote(value.text());
        return true;
      case Kind::kDict:
        return PrintDict(value.dict(), level);
      case Kind::kSequence:
        if (!value.is_list() && !value.is_tuple()) break;
        return PrintList(value.sequence().items, level);
      default:
        if (const std::string word = Word(value); !word.empty()) {
          Say(word);
          return true;
        }
    }
    why_ = absl::StrCat("tojson cannot write a value of type ", TypeName(value));
    return false;
  }

 private:
  void Say(std::string_view text) { out_.Append(text, Origin::kTemplate); }

  // None, bools and numbers, which may be keys too.
  static std::string Word(const Value& value) {
    switch (value.kind()) {
      case Kind::kNone:
        return "null";
      case Kind::kBool:
        return value.boolean() ? "true" : "false";
      case Kind::kInt:
        return absl::StrCat(value.integer());
      case Kind::kFloat:
        if (std::isnan(value.real())) return "NaN";
        if (std::isinf(value.real())) return value.real() > 0 ? "Infinity" : "-Infinity";
        return FloatText(value.real());
      default:
        return "";
    }
  }

  void Quote(const Text& text) {
    const std::string& bytes = text.bytes();
    OriginCursor origins(text);
    Say("\"");
    std::string escaped;
    for (size_t i = 0; i < bytes.size();) {
      const size_t begin = i;
      const char32_t c = NextCodePoint(bytes, &i);
      escaped.clear();
      switch (c) {
        case '"':
          escaped = "\\\"";
          break;
        case '\\':
          escaped = "\\\\";
          break;
        case '\n':
          escaped = "\\n";
          break;
        case '\r':
          escaped = "\\r";
          break;
        case '\t':
          escaped = "\\t";
          break;
        case '\f':
          escaped = "\\f";
          break;
        case '\b':
          escaped = "\\b";
          break;
        default:
          if (c < 0x20 || (style_.ascii && c >= 0x7F && c < 0x10000)) {
            AppendHex("u", c, 4, &escaped);
          } else if (style_.ascii && c >= 0x10000) {
            AppendHex("u", 0xD800 + ((c - 0x10000) >> 10), 4, &escaped);
            AppendHex("u", 0xDC00 + ((c - 0x10000) & 0x3FF), 4, &escaped);
          } else {
            escaped.assign(bytes, begin, i - begin);
          }
      }
      out_.Append(escaped, origins.At(begin));
    }
    Say("\"");
  }

  void NewLine(int level) {
    if (!style_.indent.has_value()) return;
    Say("\n");
    for (int i = 0; i < level; ++i) Say(*style_.indent);
  }

  bool PrintList(const std::vector<Value>& items, int level) {
    Say("[");
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) Say(style_.item_separator);
      NewLine(level + 1);
      if (!Print(items[i], level + 1)) return false;
    }
    if (!items.empty()) NewLine(level);
    Say("]");
    return true;
  }

  bool PrintDict(const Dict& dict, int level) {
    std::vector<const std::pair<Value, Value>*> entries;
    for (const auto& entry : dict.entries()) entries.push_back(&entry);
    if (style_.sort_keys && !Sort(&entries)) return false;
    Say("{");
    bool first = true;
    for (const auto* entry : entries) {
      if (!first) Say(style_.item_separator);
      first = false;
      NewLine(level + 1);
      if (entry->first.is_string()) {
        Quote(entry->first.text());
      } else if (const std::string word = Word(entry->first); !word.empty()) {
        Say(absl::StrCat("\"", word, "\""));
      } else {
        why_ = absl::StrCat("tojson cannot write a key of type ", TypeName(entry->first));
        return false;
      }
      Say(style_.key_separator);
      if (!Print(entry->second, level + 1)) return false;
    }
    if (!entries.empty()) NewLine(level);
    Say("}");
    return true;
  }

  bool Sort(std::vector<const std::pair<Value, Value>*>* entries) {
    const auto all = [&](auto test) {
      return std::all_of(entries->begin(), entries->end(), [&](const auto* e) { return test(e->first); });
    };
    if (all([](const Value& v) { return v.is_string(); })) {
      std::stable_sort(entries->begin(), entries->end(),
                       [](const auto* a, const auto* b) { return a->first.bytes() < b->first.bytes(); });
    } else if (all([](const Value& v) { return v.is_number() && !std::isnan(v.real()); })) {
      std::stable_sort(entries->begin(), entries->end(),
                       [](const auto* a, const auto* b) { return a->first.real() < b->first.real(); });
    } else if (entries->size() > 1) {
      why_ = "tojson cannot sort keys of different types";
      return false;
    }
    return true;
  }

  const JsonStyle& style_;
  size_t most_;
  Text& out_;
  std::string& why_;
};

}  // namespace

// The shortest digits that give the number back, in Python's layout: a point always, an exponent below 1e-4 and from
// 1e16 on.
std::string FloatText(double d) {
  if (std::isnan(d)) return "nan";
  if (std::isinf(d)) return d > 0 ? "inf" : "-inf";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), d, std::chars_format::scientific);
  const std::string text(buffer, end.ptr);
  const size_t e = text.find('e');
  const int exponent = std::stoi(text.substr(e + 1));
  std::string digits = text.substr(0, e);
  std::string sign;
  if (digits[0] == '-') {
    sign = "-";
    digits.erase(0, 1);
  }
  digits.erase(std::remove(digits.begin(), digits.end(), '.'), digits.end());
  const int n = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    if (n > 1) digits.insert(1, ".");
    char tail[16];
    std::snprintf(tail, sizeof(tail), "e%c%02d", exponent < 0 ? '-' : '+', std::abs(exponent));
    return sign + digits + tail;
  }
  if (exponent < 0) return sign + "0." + std::string(-exponent - 1, '0') + digits;
  if (exponent + 1 >= n) return sign + digits + std::string(exponent + 1 - n, '0') + ".0";
  return sign + digits.substr(0, exponent + 1) + "." + digits.substr(exponent + 1);
}

bool AppendStr(const Value& value, size_t most, Text* out, std::string* why) {
  return Printer(most, out, why).Str(value);
}
bool AppendRepr(const Value& value, size_t most, Text* out, std::string* why) {
  return Printer(most, out, why).Repr(value);
}
bool AppendJson(const Value& value, const JsonStyle& style, size_t most, Text* out, std::string* why) {
  return JsonPrinter(style, most, out, why).Print(value, 0);
}

}  // namespace duo::jinja
