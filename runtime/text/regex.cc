#include "runtime/text/regex.h"

#include <algorithm>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/check.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

// Property White_Space and its complement as class members. PCRE2's own \s also takes U+180E.
constexpr const char* kSpace =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
constexpr const char* kNotSpace =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}"
    "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{d7ff}\\x{e000}-\\x{10ffff}";
// Alphabetic, marks, decimal digits, connector punctuation; PCRE2's \w changed between its versions.
constexpr const char* kWord =
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{"
    "1f189}";
constexpr const char* kHex = "0-9A-Fa-f";

constexpr size_t kMaxPatternBytes = 64 * 1024;
constexpr size_t kJitStackBytes = size_t{64} << 20;  // reserved, touched only as far as needed
constexpr uint32_t kMatchLimit = 50'000'000;

std::string Quoted(std::string_view pattern) {
  return absl::StrCat("\"", std::string(pattern.substr(0, 200)), pattern.size() > 200 ? "..." : "", "\"");
}

// \p{Han} means the script itself, not (as in PCRE2 since 10.40) its script extensions; \p{^L} is \P{L}.
std::string TranslateProperty(bool negated, std::string_view name) {
  if (name.starts_with("^")) {
    negated = !negated;
    name.remove_prefix(1);
  }
  const bool category = name.size() <= 2 || name == "Any";
  return absl::StrCat(negated ? "\\P{" : "\\p{", category ? "" : "sc:", std::string(name), "}");
}

absl::StatusOr<std::string> Translate(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  size_t class_start = 0;  // where the first member may stand
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    const char next = i + 1 < pattern.size() ? pattern[i + 1] : '\0';
    if (c == '\\') {
      if (i + 1 == pattern.size()) return absl::InvalidArgumentError("the pattern ends in a backslash");
      ++i;
      const char* members = next == 's'   ? kSpace
                            : next == 'S' ? kNotSpace
                            : next == 'w' ? kWord
                            : next == 'h' ? kHex
                                          : nullptr;
      if (members != nullptr) {
        absl::StrAppend(&out, in_class ? "" : "[", members, in_class ? "" : "]");
      } else if (next == 'W' || next == 'H') {
        if (in_class) return absl::UnimplementedError(absl::StrFormat("\\%c inside a class is not supported", next));
        absl::StrAppend(&out, "[^", next == 'W' ? kWord : kHex, "]");
      } else if (next == 'd' || next == 'D') {
        absl::StrAppend(&out, next == 'd' ? "\\p{Nd}" : "\\P{Nd}");
      } else if ((next == 'p' || next == 'P') && i + 1 < pattern.size() && pattern[i + 1] == '{') {
        const size_t close = pattern.find('}', i);
        if (close == std::string_view::npos) return absl::InvalidArgumentError("a \\p{ is not closed");
        out += TranslateProperty(next == 'P', pattern.substr(i + 2, close - i - 2));
        i = close;
      } else if (next == 'u') {
        if (i + 4 >= pattern.size()) return absl::InvalidArgumentError("a \\u lacks its four digits");
        absl::StrAppend(&out, "\\x{", std::string(pattern.substr(i + 1, 4)), "}");
        i += 4;
      } else {
        out += c;
        out += next;
      }
    } else if (in_class) {
      if (c == '[') {
        const size_t close = next == ':' ? pattern.find(":]", i) : std::string_view::npos;
        if (close == std::string_view::npos) return absl::UnimplementedError("a class inside a class is not supported");
        out.append(pattern.substr(i, close + 2 - i));
        i = close + 1;
      } else if (c == '&' && next == '&') {
        return absl::UnimplementedError("a class intersection (&&) is not supported");
      } else {
        out += c;
        if (c == ']' && i > class_start) in_class = false;
      }
    } else {
      out += c;
      if (c == '[') {
        in_class = true;
        class_start = i + 1;
        if (next == '^') {
          out += next;
          ++i;
          class_start = i + 1;
        }
      }
    }
  }
  return out;
}

}  // namespace

struct Regex::Scanner::Work {
  pcre2_match_data* data = nullptr;
  pcre2_match_context* context = nullptr;
  pcre2_jit_stack* stack = nullptr;
  ~Work() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

absl::StatusOr<Regex> Regex::Compile(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the regex ", Quoted(pattern), " is longer than ", kMaxPatternBytes, " bytes"));
  }
  absl::StatusOr<std::string> translated = Translate(pattern);
  if (!translated.ok()) {
    return absl::Status(translated.status().code(), absl::StrCat("the regex ", Quoted(pattern),
                                                                 " cannot be used: ", translated.status().message()));
  }
  int error = 0;
  PCRE2_SIZE offset = 0;
  // Ruby's ^ and $ match at line ends, hence MULTILINE.
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated->data()), translated->size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code == nullptr) {
    PCRE2_UCHAR message[256];
    pcre2_get_error_message(error, message, sizeof(message));
    return absl::InvalidArgumentError(
        absl::StrCat("the regex ", Quoted(pattern), " cannot be compiled: ", reinterpret_cast<const char*>(message)));
  }
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where there is no JIT the interpreter runs the same program
  Regex regex;
  regex.program_ = std::shared_ptr<const void>(
      code, [](const void* p) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(p))); });
  return regex;
}

Regex Regex::Literal(std::string_view text) {
  DUO_CHECK(!text.empty());
  Regex regex;
  regex.literal_ = std::make_shared<const std::string>(text);
  return regex;
}

Regex::Scanner::Scanner(const Regex& regex) : program_(regex.program_), literal_(regex.literal_) {
  if (literal_ != nullptr) return;
  const auto* code = static_cast<const pcre2_code*>(program_.get());
  work_ = std::make_shared<Work>();
  work_->data = pcre2_match_data_create_from_pattern(code, nullptr);
  work_->context = pcre2_match_context_create(nullptr);
  DUO_CHECK(work_->data != nullptr && work_->context != nullptr);
  pcre2_set_match_limit(work_->context, kMatchLimit);
  size_t jit_bytes = 0;
  if (pcre2_pattern_info(code, PCRE2_INFO_JITSIZE, &jit_bytes) == 0 && jit_bytes > 0) {
    work_->stack = pcre2_jit_stack_create(32 * 1024, kJitStackBytes, nullptr);
    if (work_->stack != nullptr) pcre2_jit_stack_assign(work_->context, nullptr, work_->stack);
  }
}

void Regex::Scanner::FindAll(std::string_view text, std::vector<TextRange>* matches) {
  matches->clear();
  if (literal_ != nullptr) {
    for (size_t at = text.find(*literal_); at != std::string_view::npos;
         at = text.find(*literal_, at + literal_->size())) {
      matches->push_back({at, at + literal_->size()});
    }
    return;
  }
  const auto* code = static_cast<const pcre2_code*>(program_.get());
  const PCRE2_SIZE* found = pcre2_get_ovector_pointer(work_->data);
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t from = 0;
  size_t last_end = std::string_view::npos;
  while (from <= text.size()) {
    int rc = pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK, work_->data, work_->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter keeps its frames on the heap
      rc =
          pcre2_match(code, subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, work_->data, work_->context);
    }
    if (rc < 0) return;
    const size_t begin = found[0], end = found[1];
    if (end < begin) return;  // \K inside a lookahead
    if (begin == end && end == last_end) {
      if (from >= text.size()) return;
      NextCodePoint(text, &from);
      continue;
    }
    matches->push_back({begin, end});
    from = last_end = end;
  }
}

bool Regex::Scanner::LooksAtEnd(std::string_view text, size_t from, size_t* known) {
  size_t open = text.size();
  if (literal_ != nullptr) {
    if (text.find(*literal_, from) != std::string_view::npos) return false;
    // The literal may have begun at the end.
    for (size_t length = std::min(literal_->size() - 1, text.size() - from); length > 0; --length) {
      if (!text.ends_with(literal_->substr(0, length))) continue;
      open = text.size() - length;
      break;
    }
  } else {
    // A partial match is one that wants to look at what is behind the text, be it only in an assertion.
    const int rc = pcre2_match(static_cast<const pcre2_code*>(program_.get()),
                               reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                               PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT | PCRE2_PARTIAL_HARD, work_->data, work_->context);
    if (rc >= 0) return false;
    if (rc == PCRE2_ERROR_PARTIAL) open = pcre2_get_ovector_pointer(work_->data)[0];
  }
  if (known != nullptr) *known = open;
  return true;
}

}  // namespace duo
