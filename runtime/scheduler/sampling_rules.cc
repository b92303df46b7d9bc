#include "runtime/scheduler/sampling_rules.h"

#include <limits>

#include "absl/strings/str_cat.h"

namespace duo {
namespace {

// A NaN is in no range.
absl::Status InRange(const char* field, double value, double least, double most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " must be ", least, " to ", most, ", found ", value));
}

absl::Status InVocabulary(const char* field, int32_t token, int64_t vocab) {
  if (token >= 0 && token < vocab) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(field, ": token ", token, " is not in the model's vocabulary of ", vocab));
}

}  // namespace

absl::Status CheckRules(const SamplingRules& r, int64_t vocab) {
  if (r.top_k < 0) {
    return absl::InvalidArgumentError(absl::StrCat("top_k must be at least 1, or 0 for all tokens, found ", r.top_k));
  }
  if (absl::Status s = InRange("min_p", r.min_p, 0, 1); !s.ok()) return s;
  if (absl::Status s = InRange("presence_penalty", r.presence_penalty, -2, 2); !s.ok()) return s;
  if (absl::Status s = InRange("frequency_penalty", r.frequency_penalty, -2, 2); !s.ok()) return s;
  if (!(r.repetition_penalty > 0 && r.repetition_penalty <= 100)) {
    return absl::InvalidArgumentError(
        absl::StrCat("repetition_penalty must be above 0 and at most 100, found ", r.repetition_penalty));
  }
  if (r.logit_bias.size() > kMostBiases) {
    return absl::InvalidArgumentError(
        absl::StrCat("logit_bias has at most ", kMostBiases, " tokens, found ", r.logit_bias.size()));
  }
  for (const TokenBias& b : r.logit_bias) {
    if (absl::Status s = InVocabulary("logit_bias", b.token, vocab); !s.ok()) return s;
    if (absl::Status s = InRange("logit_bias", b.bias, -100, 100); !s.ok()) return s;
  }
  if (r.stop_tokens.size() > kMostStopTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("at most ", kMostStopTokens, " stop tokens, found ", r.stop_tokens.size()));
  }
  for (int32_t token : r.stop_tokens) {
    if (absl::Status s = InVocabulary("stop_tokens", token, vocab); !s.ok()) return s;
  }
  if (r.min_new_tokens < 0) {
    return absl::InvalidArgumentError(absl::StrCat("min_new_tokens must not be negative, found ", r.min_new_tokens));
  }
  if (absl::Status s = InRange("logprobs", r.scores, -1, kMostBest); !s.ok()) return s;
  return InRange("prompt_logprobs", r.prompt_scores, -1, kMostBest);
}

bool CountsTokens(const SamplingRules& r) {
  return r.presence_penalty != 0 || r.frequency_penalty != 0 || r.repetition_penalty != 1;
}

void AddRule(const SamplingRules& r, const TokenCounts& counts, const std::vector<int32_t>& banned,
             const std::vector<uint32_t>& mask, StepPlan* plan) {
  std::map<int32_t, LogitEdit> edits;
  const auto edit = [&](int32_t token) -> LogitEdit& {
    LogitEdit& e = edits[token];
    e.id = token;
    return e;
  };
  for (const auto& [token, count] : counts) {
    LogitEdit& e = edit(token);
    e.divide = r.repetition_penalty;
    e.add -= r.presence_penalty + r.frequency_penalty * static_cast<float>(count);
  }
  for (const TokenBias& b : r.logit_bias) edit(b.token).add += b.bias;
  for (int32_t token : banned) edit(token).add = -std::numeric_limits<float>::infinity();

  SampleRule rule;
  rule.sample = static_cast<int32_t>(plan->samples.size()) - 1;
  rule.top_k = r.top_k;
  rule.min_p = r.min_p;
  rule.scores = r.scores;
  rule.first_edit = static_cast<int32_t>(plan->edits.size());
  rule.edits = static_cast<int32_t>(edits.size());
  if (!mask.empty()) rule.mask = static_cast<int32_t>(plan->masks.size());
  if (!rule.changes_draw() && rule.scores < 0) return;
  for (const auto& [token, e] : edits) plan->edits.push_back(e);
  plan->masks.insert(plan->masks.end(), mask.begin(), mask.end());
  plan->rules.push_back(rule);
}

}  // namespace duo
