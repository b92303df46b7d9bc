// `duo generate --sources N`: where each answer looked in the prompt, as a short list for a person and as JSON.
// Values; the engine's thread.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "launcher/generate_texts.h"
#include "runtime/provenance/sources.h"

namespace duo {

// What of the prompt an answer's rows looked at. ask: the tokens behind the prompt's; empty where the answer goes on
// with the prompt itself.
struct AnswerSources {
  SourceMap map;
  SourceMap::Options options;
  std::vector<LookedAt> rows;  // of the answer's tokens, as drawn

  AnswerSources() = default;
  // sink: the attention sinks. recent: the window that counts for nothing where no question follows the prompt, so that
  // an answer's own neighbourhood is not called its source.
  AnswerSources(const Texts& texts, std::span<const int32_t> ask, int most, int sink, int recent);
  // Of its first `tokens` rows, those of the text that was reported.
  std::vector<Source> Find(size_t tokens) const;
  std::vector<Source> FindToken(size_t token) const;
};

// [{start, end, line, score, text}]
nlohmann::ordered_json SourcesJson(const std::vector<Source>& sources);
// A line for each: "  book.txt:120  0.42  The words that stand there"; name: empty for a prompt that is no file.
std::string SourcesText(const std::vector<Source>& sources, const std::string& name);

}  // namespace duo
