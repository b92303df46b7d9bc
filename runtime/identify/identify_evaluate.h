// What a choice of retrieval heads is worth, asked of the real engine: held-out facts found, by length and depth of the
// document, and perplexity of text that no training sample held. One thread, the engine's; on rank 0.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/engine/engine.h"
#include "runtime/identify/passkey_data.h"
#include "runtime/identify/perplexity.h"

namespace duo {

struct RecallCount {
  int asked = 0;
  int found = 0;     // the answer begins with all of what was hidden
  double words = 0;  // sum over questions: the share of the answer's words that stand in their place
  double share() const { return asked == 0 ? 0 : static_cast<double>(found) / asked; }
  double word_share() const { return asked == 0 ? 0 : words / asked; }
  RecallCount& operator+=(const RecallCount& other);
};

// One answer against what was hidden. White space and punctuation around words do not count.
RecallCount ScoreAnswer(const std::string& text, const std::string& hidden);

// Held-out documents of several lengths.
struct RecallSuite {
  std::vector<int64_t> lengths;                         // tokens
  std::vector<std::vector<PasskeyDocument>> documents;  // [lengths][documents]
};
RecallSuite MakeRecallSuite(const PasskeyData& data, uint64_t seed, const std::vector<int64_t>& lengths, int documents);
// What the engine needs for it: EngineOptions' sessions, questions, max_session_tokens and kv_tokens.
void MakeRoom(const RecallSuite& suite, EngineOptions* options);

// [lengths][facts]: facts stand at evenly spread depths, in order. progress: questions answered, in all.
absl::StatusOr<std::vector<std::vector<RecallCount>>> MeasureRecall(
    Engine& engine, const Tokenizer& tokenizer, const RecallSuite& suite, const std::vector<int32_t>& end_tokens,
    const std::function<void(int64_t, int64_t)>& progress);

RecallCount Sum(const std::vector<RecallCount>& counts);

}  // namespace duo
