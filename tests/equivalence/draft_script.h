// A random life of one engine: documents that repeat themselves are read, asked about, rewound and forked, with every
// kind of question. The same seed makes the same calls, whatever the engine, so that engines with and without drafts
// can be compared by what they answered. Rank 0 only; the others follow.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/engine/engine.h"

namespace duo {

struct ScriptAnswer {
  std::string asked;  // for messages
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;  // [tokens][vocab]
  std::vector<TokenScore> scores;
  RequestResult result;
};

// `calls` calls. Sessions hold at most 500 tokens; of questions at most four run at once. No step that draws has more
// than kExactRows rows, but for the first tokens of long questions, which are asked alone.
std::vector<ScriptAnswer> RunDraftScript(Engine& engine, uint64_t seed, int calls);

// Empty where the answers are the same: every token, and every bit of the logits and scores.
std::string DifferenceOf(const std::vector<ScriptAnswer>& found, const std::vector<ScriptAnswer>& expected);

}  // namespace duo
