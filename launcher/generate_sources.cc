#include "launcher/generate_sources.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {
namespace {

constexpr size_t kShownBytes = 100;  // of a source's text in the list

// For one line of a terminal: control characters become spaces, a long text is cut between characters.
std::string OneLine(std::string_view text) {
  std::string line = ReplaceInvalidUtf8(text);
  const bool cut = line.size() > kShownBytes;
  if (cut) line.resize(CertainUtf8Prefix(std::string_view(line).substr(0, kShownBytes)));
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return cut ? line + "..." : line;
}

}  // namespace

AnswerSources::AnswerSources(const Texts& texts, std::span<const int32_t> ask, int most, int sink, int recent) {
  std::vector<int32_t> tokens = texts.prompt;
  tokens.insert(tokens.end(), ask.begin(), ask.end());
  map = SourceMap(texts.tokenizer, texts.sent, texts.read, tokens);
  options = {most, sink, ask.empty() ? recent : 0};
}

std::vector<Source> AnswerSources::Find(size_t tokens) const {
  return map.Find(std::span(rows).first(std::min(tokens, rows.size())), options);
}

std::vector<Source> AnswerSources::FindToken(size_t token) const {
  return token < rows.size() ? map.Find(std::span(rows).subspan(token, 1), options) : std::vector<Source>();
}

nlohmann::ordered_json SourcesJson(const std::vector<Source>& sources) {
  nlohmann::ordered_json all = nlohmann::ordered_json::array();
  for (const Source& s : sources) {
    all.push_back({{"start", s.begin}, {"end", s.end}, {"line", s.line}, {"score", s.score}, {"text", s.text}});
  }
  return all;
}

std::string SourcesText(const std::vector<Source>& sources, const std::string& name) {
  std::string out;
  for (const Source& s : sources) {
    absl::StrAppendFormat(&out, "  %s:%d  %.2f  %s\n", name.empty() ? "prompt" : name, s.line, s.score,
                          OneLine(s.text));
  }
  return out.empty() ? "  nowhere in the prompt\n" : out;
}

}  // namespace duo
