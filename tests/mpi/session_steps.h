// What the tests of sessions over ranks do with a session, and how they compare what it answers. Rank 0 only; the
// others follow.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "runtime/engine/engine.h"

namespace duo {

// What one question gave.
struct Answer {
  std::vector<int32_t> tokens;
  std::vector<std::vector<float>> logits;  // [tokens][vocab]
};

// Token ids below `vocab` that follow from the seed alone.
std::vector<int32_t> RandomTokens(int64_t vocab, int count, uint64_t seed);

// Until it is read.
absl::Status AppendAll(Engine& engine, SessionId session, const std::vector<int32_t>& tokens);

// params.want_logits is set.
absl::StatusOr<Answer> AskNow(Engine& engine, SessionId session, const std::vector<int32_t>& tokens,
                              GenerateParams params);

// Of a logit, up to the first token that differs.
float LargestDifference(const Answer& answer, const Answer& expected);

// Empty where both agree by the test rule (logits within the tolerance, and the same tokens up to a tie within twice of
// it), else what differs and `where`.
std::string Difference(const std::string& where, const Answer& answer, const Answer& expected, float tolerance);

}  // namespace duo
