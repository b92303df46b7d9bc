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
  bool kept = false;  // the session has the question and the answer from then on
};

// `calls` calls. Sessions hold at most 500 tokens behind the first `before`, which are random words; of questions at
// most four run at once. No step that draws has more than kExactRows rows, but for the first tokens of long questions,
// which are asked alone.
std::vector<ScriptAnswer> RunDraftScript(Engine& engine, uint64_t seed, int calls, int before = 0);

// Empty where the answers are the same: every token, and every bit of the logits and scores.
std::string DifferenceOf(const std::vector<ScriptAnswer>& found, const std::vector<ScriptAnswer>& expected);

// For devices on which a row's bits depend on the rows beside it. Empty where all logits are within the tolerance,
// answer by answer, up to a token that was drawn otherwise; behind a kept answer that parts sessions are not the same
// any more, and nothing is compared. compared: the tokens whose logits were; parted: the answers that part.
std::string DifferenceWithin(const std::vector<ScriptAnswer>& found, const std::vector<ScriptAnswer>& expected,
                             float tolerance, int64_t* compared, int* parted);

}  // namespace duo
