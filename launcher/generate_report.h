// What `duo generate` prints when all is written: answers on stdout, what is said about them on stderr, or one object.
// Rank 0.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "launcher/generate_flags.h"
#include "launcher/generate_sources.h"
#include "launcher/generate_texts.h"
#include "runtime/engine/engine.h"
#include "runtime/text/grammar/matcher.h"
#include "runtime/text/text_stream.h"

namespace duo {

// One text to be continued: the prompt, or an --ask on a fork of it.
struct GeneratedAnswer {
  std::vector<int32_t> prompt;
  std::unique_ptr<TextStream> stream;
  std::unique_ptr<GrammarMatcher> matcher;        // where the answer is to be something
  std::vector<int32_t> tokens;                    // as drawn
  std::vector<TokenScore> scores, prompt_scores;  // where they are asked for
  std::unique_ptr<AnswerSources> sources;         // likewise
  RequestResult result;
  absl::Status broken;  // the matcher could not follow
  bool done = false;
};

struct Generated {
  SamplingRules rules;
  std::vector<GeneratedAnswer> answers;
  std::vector<std::vector<Source>> replayed;  // of each question, where that is asked for
  int64_t new_tokens = 0;
  double prefill_seconds = 0, seconds = 0;
  // Since all answers had begun: tokens drawn, and processor seconds of this process, which others on the machine do
  // not change as they do its time.
  int64_t processor_tokens = 0;
  double processor_seconds = 0;
  SparseReport sparse;  // how the prompt was read
};

void PrintGenerated(const GenerateFlags& flags, const Texts& texts, const Runtime& runtime, const Engine& engine,
                    const Generated& generated);

}  // namespace duo
