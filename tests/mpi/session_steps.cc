#include "tests/mpi/session_steps.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/splitmix64.h"

namespace duo {

std::vector<int32_t> RandomTokens(int64_t vocab, int count, uint64_t seed) {
  std::vector<int32_t> tokens(count);
  for (int i = 0; i < count; ++i) {
    tokens[i] = static_cast<int32_t>(SplitMix64(seed * 1000003 + i) % static_cast<uint64_t>(vocab));
  }
  return tokens;
}

absl::Status AppendAll(Engine& engine, SessionId session, const std::vector<int32_t>& tokens) {
  absl::Status status;
  RequestEvents events;
  events.on_done = [&](const RequestResult& result) { status.Update(result.status); };
  status.Update(engine.Append(session, tokens, events).status());
  while (engine.Step()) {
  }
  return status;
}

absl::StatusOr<Answer> AskNow(Engine& engine, SessionId session, const std::vector<int32_t>& tokens,
                              GenerateParams params) {
  Answer answer;
  absl::Status status;
  RequestEvents events;
  events.on_done = [&](const RequestResult& result) { status.Update(result.status); };
  events.on_logits = [&](const std::vector<float>& logits) { answer.logits.push_back(logits); };
  events.on_token = [&](int32_t token) {
    answer.tokens.push_back(token);
    return true;
  };
  params.want_logits = true;
  status.Update(engine.Ask(session, tokens, params, events).status());
  while (engine.Step()) {
  }
  if (!status.ok()) return status;
  return answer;
}

float LargestDifference(const Answer& answer, const Answer& expected) {
  float largest = 0;
  for (size_t step = 0; step < std::min(answer.tokens.size(), expected.tokens.size()); ++step) {
    for (size_t i = 0; i < expected.logits[step].size(); ++i) {
      largest = std::max(largest, std::abs(answer.logits[step][i] - expected.logits[step][i]));
    }
    if (answer.tokens[step] != expected.tokens[step]) break;
  }
  return largest;
}

std::string Difference(const std::string& where, const Answer& answer, const Answer& expected, float tolerance) {
  if (answer.tokens.size() != expected.tokens.size()) return absl::StrCat(where, ": ", answer.tokens.size(), " tokens");
  for (size_t step = 0; step < expected.tokens.size(); ++step) {
    std::vector<float> sorted = expected.logits[step];
    for (size_t i = 0; i < sorted.size(); ++i) {
      const float apart = std::abs(answer.logits[step][i] - sorted[i]);
      if (apart <= tolerance) continue;  // a NaN does not pass
      return absl::StrFormat("%s: step %d: logit %d is %g away, %g are allowed", where, step, i, apart, tolerance);
    }
    if (answer.tokens[step] == expected.tokens[step]) continue;
    std::nth_element(sorted.begin(), sorted.begin() + 1, sorted.end(), std::greater<float>());
    if (sorted[0] - sorted[1] <= 2 * tolerance) break;  // a tie: the texts part here
    return absl::StrFormat("%s: token %d is %d, expected %d", where, step, answer.tokens[step], expected.tokens[step]);
  }
  return "";
}

}  // namespace duo
