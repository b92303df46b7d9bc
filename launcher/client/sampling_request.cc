#include "launcher/client/sampling_request.h"

#include "absl/status/statusor.h"

namespace duo {

absl::Status SetSampling(const SamplingFlags& flags, duo::v1::AskRequest* request) {
  absl::StatusOr<SamplingRules> rules = ReadSamplingFlags(flags);
  if (!rules.ok()) return rules.status();
  const SamplingRules off;
  if (rules->top_k != off.top_k) request->set_top_k(rules->top_k);
  if (rules->min_p != off.min_p) request->set_min_p(rules->min_p);
  if (rules->presence_penalty != off.presence_penalty) request->set_presence_penalty(rules->presence_penalty);
  if (rules->frequency_penalty != off.frequency_penalty) request->set_frequency_penalty(rules->frequency_penalty);
  if (rules->repetition_penalty != off.repetition_penalty) request->set_repetition_penalty(rules->repetition_penalty);
  for (const TokenBias& b : rules->logit_bias) {
    duo::v1::TokenBias* bias = request->add_logit_bias();
    bias->set_token(b.token);
    bias->set_bias(b.bias);
  }
  for (int32_t token : rules->stop_tokens) request->add_stop_tokens(token);
  if (rules->min_new_tokens > 0) request->set_min_new_tokens(rules->min_new_tokens);
  if (rules->scores >= 0) request->set_logprobs(rules->scores);
  if (rules->prompt_scores >= 0) request->set_prompt_logprobs(rules->prompt_scores);
  request->set_ignore_end_tokens(flags.ignore_eos);
  absl::StatusOr<Guide> guide = ReadGuideFlags(flags);
  if (!guide.ok()) return guide.status();
  if (guide->kind == Guide::Kind::kJsonObject) request->set_json_object(true);
  if (guide->kind == Guide::Kind::kJsonSchema) request->set_json_schema(guide->text);
  if (guide->kind == Guide::Kind::kRegex) request->set_regex(guide->text);
  if (guide->kind == Guide::Kind::kGrammar) request->set_grammar(guide->text);
  return absl::OkStatus();
}

}  // namespace duo
