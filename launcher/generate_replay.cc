#include "launcher/generate_replay.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "launcher/generate_sources.h"
#include "runtime/text/unicode/unicode.h"

namespace duo {

absl::StatusOr<std::vector<std::vector<Source>>> LookBefore(Engine& engine, SessionId session, const Texts& texts,
                                                            int most) {
  struct Look {
    AnswerSources sources;
    absl::Status status = absl::ResourceExhaustedError("the question needs more KV memory than this run has");
  };
  std::vector<Look> looks(texts.asks.size());
  const HeadPlan& heads = engine.heads();
  for (size_t i = 0; i < looks.size(); ++i) {
    looks[i].sources = AnswerSources(texts, texts.asks[i], most, heads.sink, heads.recent);
    GenerateParams params;
    params.max_new_tokens = 1;
    params.mass = true;
    RequestEvents events;
    events.on_mass = [look = &looks[i]](const RowMass& mass) { look->sources.rows.push_back(WhatCounts(mass)); };
    events.on_done = [look = &looks[i]](const RequestResult& result) { look->status = result.status; };
    const absl::StatusOr<RequestId> asked = engine.Ask(session, texts.asks[i], params, std::move(events));
    if (!asked.ok()) return asked.status();
  }
  while (engine.Step()) {
  }
  std::vector<std::vector<Source>> found;
  for (const Look& look : looks) {
    if (!look.status.ok()) return look.status;
    found.push_back(look.sources.Find(1));
    std::sort(found.back().begin(), found.back().end(),
              [](const Source& a, const Source& b) { return a.begin < b.begin; });
  }
  return found;
}

std::string BehindSources(const std::vector<Source>& found, const std::string& ask) {
  std::string text;
  for (const Source& source : found) {
    std::string said(absl::StripAsciiWhitespace(source.text));
    if (std::ssize(said) > kReplayedBytes) said.resize(CertainUtf8Prefix(said.substr(0, kReplayedBytes)));
    absl::StrAppend(&text, text.empty() ? "\n" : "", said, "\n");
  }
  return absl::StrCat(text, ask);
}

}  // namespace duo
