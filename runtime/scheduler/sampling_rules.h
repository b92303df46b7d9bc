// SamplingRules: what a question may ask of the draw of its answer's tokens besides temperature and top_p. All of it is
// off as it stands, and then costs nothing and changes not one bit. AnswerSoFar is what penalties need to know of the
// answer. Plain values.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "absl/status/status.h"
#include "kernels/ops.h"
#include "runtime/model/step_plan.h"

namespace duo {

struct TokenBias {
  int32_t token = 0;
  float bias = 0;
};

struct SamplingRules {
  int32_t top_k = 0;  // from the so many likeliest tokens; 0: all
  float min_p = 0;    // from those at least min_p times as likely as the likeliest; 0: all
  // Over the answer, not the prompt: taken from the logit of every token that is in the answer; from it as often as the
  // token is there; its logit divided by it where positive, multiplied where negative.
  float presence_penalty = 0, frequency_penalty = 0, repetition_penalty = 1;
  std::vector<TokenBias> logit_bias;  // added to these tokens' logits
  std::vector<int32_t> stop_tokens;   // a drawn token of these ends the answer (Finish::kStop) and is not reported
  int64_t min_new_tokens = 0;         // before so many tokens nothing of end_tokens and stop_tokens is drawn
  // Log-probabilities of the answer's tokens, and of the prompt's but the first one, with so many of the best: 0 to
  // kMostBest; -1: none.
  int32_t scores = -1, prompt_scores = -1;
};

constexpr size_t kMostBiases = 4096, kMostStopTokens = 256;

// INVALID_ARGUMENT, naming the field, where a value is no number or out of its range. vocab: the model's.
absl::Status CheckRules(const SamplingRules& rules, int64_t vocab);

// How often each token is in the answer; kept only where a penalty asks.
using TokenCounts = std::map<int32_t, int32_t>;
bool CountsTokens(const SamplingRules& rules);

// Gives the plan's last sample its rule, if it asks for one. banned: tokens that must not be drawn this time; mask: the
// words of what is allowed, empty for all.
void AddRule(const SamplingRules& rules, const TokenCounts& counts, const std::vector<int32_t>& banned,
             const std::vector<uint32_t>& mask, StepPlan* plan);

}  // namespace duo
