#include "runtime/text/regex/regex.h"

#include <oniguruma.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "runtime/text/regex/certain_search.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

constexpr size_t kMaxPatternBytes = 64 * 1024;
constexpr size_t kMaxTextBytes = size_t{1} << 31;   // Oniguruma's places are int
constexpr unsigned long kMostRetries = 10'000'000;  // from one place of the text: Oniguruma's default, so the library's
constexpr unsigned kMostStackEntries = 4'000'000;   // some 200 MB

const OnigUChar* Bytes(std::string_view text) { return reinterpret_cast<const OnigUChar*>(text.data()); }

// Patterns come out of checkpoints too, and end in a terminal: without what controls it. Letters of any script stay.
std::string Shown(std::string_view text) {
  std::string out;
  for (const char c : text.substr(0, 200)) {
    const auto byte = static_cast<unsigned char>(c);
    const bool high_control = byte >= 0x80 && byte < 0xa0 && !out.empty() && out.back() == '\xc2';
    if (high_control) out.pop_back();
    out += byte < 0x20 || byte == 0x7f || high_control ? '?' : c;
  }
  return text.size() > 200 ? out + "..." : out;
}
std::string Quoted(std::string_view pattern) { return absl::StrCat("\"", Shown(pattern), "\""); }

std::string ErrorText(int code, OnigErrorInfo* info) {
  OnigUChar text[ONIG_MAX_ERROR_MESSAGE_LEN];
  const int length = onig_error_code_to_str(text, code, info);
  return std::string(reinterpret_cast<const char*>(text), static_cast<size_t>(std::max(length, 0)));
}

// Oniguruma counts symbols as [:punct:] since its version 6.9.9; so does the library, whatever version is here.
std::string WithSymbolsAsPunctuation(std::string_view pattern) {
  const std::pair<std::string_view, std::string_view> brackets[] = {{"[:punct:]", "\\p{P}\\p{S}"},
                                                                    {"[:^punct:]", "[^\\p{P}\\p{S}]"}};
  std::string out;
  int depth = 0;  // of classes in classes
  for (size_t i = 0; i < pattern.size();) {
    const auto* bracket = std::find_if(std::begin(brackets), std::end(brackets), [&](const auto& b) {
      return depth > 0 && pattern.substr(i).starts_with(b.first);
    });
    if (bracket != std::end(brackets)) {
      out += bracket->second;
      i += bracket->first.size();
      continue;
    }
    if (pattern[i] == '[') ++depth;
    if (pattern[i] == ']' && depth > 0) --depth;
    const size_t length = pattern[i] == '\\' ? 2 : 1;
    out += pattern.substr(i, length);
    i += length;
  }
  return out;
}

}  // namespace

struct Regex::Program {
  regex_t* code = nullptr;
  std::string pattern;
  std::optional<CertainProgram> certain;
  ~Program() { onig_free(code); }
};

struct Regex::Scanner::Work {
  std::shared_ptr<const Program> program;
  OnigRegion* region = onig_region_new();
  OnigMatchParam* parameters = onig_new_match_param();
  std::optional<CertainSearch> certain;
  ~Work() {
    onig_region_free(region, /*free_self=*/1);
    onig_free_match_param(parameters);
  }
};

absl::StatusOr<Regex> Regex::Compile(std::string_view pattern) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the regex ", Quoted(pattern), " is longer than ", kMaxPatternBytes, " bytes"));
  }
  static const int initialized = [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    return onig_initialize(encodings, 1);
  }();
  DUO_CHECK_EQ(initialized, ONIG_NORMAL);
  auto program = std::make_shared<Program>();
  program->pattern = std::string(pattern);
  const std::string meant = WithSymbolsAsPunctuation(pattern);
  OnigErrorInfo info{};
  const int error = onig_new(&program->code, Bytes(meant), Bytes(meant) + meant.size(), ONIG_OPTION_NONE,
                             ONIG_ENCODING_UTF8, ONIG_SYNTAX_RUBY, &info);
  if (error != ONIG_NORMAL) {
    return absl::InvalidArgumentError(
        absl::StrCat("the regex ", Quoted(pattern), " cannot be compiled: ", Shown(ErrorText(error, &info))));
  }
  program->certain = ParseCertainProgram(meant);
  Regex regex;
  regex.program_ = std::move(program);
  return regex;
}

Regex Regex::Literal(std::string_view text) {
  DUO_CHECK(!text.empty());
  Regex regex;
  regex.literal_ = std::make_shared<const std::string>(text);
  return regex;
}

bool Regex::can_be_certain() const { return literal_ != nullptr || program_->certain.has_value(); }

bool Regex::looks_behind() const {
  if (literal_ != nullptr) return false;
  if (!program_->certain.has_value()) return true;
  const std::vector<Instruction>& code = program_->certain->code;
  return std::any_of(code.begin(), code.end(), [](const Instruction& instruction) {
    using Op = Instruction::Op;
    return instruction.op == Op::kBehind || instruction.op == Op::kWordEdge || instruction.op == Op::kLineBegin ||
           instruction.op == Op::kTextBegin;
  });
}

Regex::Scanner::Scanner(const Regex& regex) : literal_(regex.literal_) {
  if (literal_ != nullptr) return;
  work_ = std::make_shared<Work>();
  work_->program = regex.program_;
  DUO_CHECK(work_->region != nullptr && work_->parameters != nullptr);
  onig_initialize_match_param(work_->parameters);
  onig_set_retry_limit_in_match_of_match_param(work_->parameters, kMostRetries);
  onig_set_match_stack_limit_size_of_match_param(work_->parameters, kMostStackEntries);
  if (work_->program->certain.has_value()) work_->certain.emplace(*work_->program->certain);
}

absl::Status Regex::Scanner::FindAll(std::string_view text, std::vector<TextRange>* matches) {
  matches->clear();
  if (text.empty()) return absl::OkStatus();
  if (literal_ != nullptr) {
    for (size_t at = text.find(*literal_); at != std::string_view::npos;
         at = text.find(*literal_, at + literal_->size())) {
      matches->push_back({at, at + literal_->size()});
    }
    return absl::OkStatus();
  }
  if (text.size() >= kMaxTextBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a text of ", text.size(),
                                                   " bytes is too long for the tokenizer's regex: at most ",
                                                   kMaxTextBytes - 1, "; give it in pieces"));
  }
  const OnigUChar* begin = Bytes(text);
  const OnigUChar* end = begin + text.size();
  size_t from = 0;
  size_t last_end = std::string_view::npos;
  while (from <= text.size()) {
    const int found = onig_search_with_param(work_->program->code, begin, end, begin + from, end, work_->region,
                                             ONIG_OPTION_NONE, work_->parameters);
    if (found == ONIG_MISMATCH) return absl::OkStatus();
    if (found < 0) {
      return absl::InvalidArgumentError(absl::StrCat("the tokenizer's regex ", Quoted(work_->program->pattern),
                                                     " cannot be searched for in this text, behind byte ", from, ": ",
                                                     ErrorText(found, nullptr)));
    }
    const TextRange match{static_cast<size_t>(work_->region->beg[0]), static_cast<size_t>(work_->region->end[0])};
    if (match.begin < from || match.end < match.begin) {  // \K inside a look-around
      return absl::InvalidArgumentError(
          absl::StrCat("the tokenizer's regex ", Quoted(work_->program->pattern), " finds matches that overlap"));
    }
    if (match.begin == match.end && match.end == last_end) {
      if (from >= text.size()) return absl::OkStatus();
      NextCodePoint(text, &from);
      continue;
    }
    matches->push_back(match);
    from = last_end = match.end;
  }
  return absl::OkStatus();
}

bool Regex::Scanner::LooksAtEnd(std::string_view text, size_t from, const TextRange* match, size_t* known) {
  size_t open = text.size();
  if (literal_ != nullptr) {
    if (text.find(*literal_, from) != std::string_view::npos) return false;
    // The literal may have begun at the end.
    for (size_t length = std::min(literal_->size() - 1, text.size() - from); length > 0; --length) {
      if (!text.ends_with(literal_->substr(0, length))) continue;
      open = text.size() - length;
      break;
    }
  } else if (!work_->certain.has_value()) {
    open = from;
  } else {
    const CertainSearch::Found found = work_->certain->Find(text, from);
    if (found.certain && (match == nullptr || *match == TextRange{found.begin, found.end})) return false;
    open = found.certain ? from : found.known;
  }
  if (known != nullptr) *known = open;
  return true;
}

}  // namespace duo
