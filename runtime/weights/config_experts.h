// What a config.json says about mixtures of experts, by the family's rule:
//   kMixtral  num_local_experts, num_experts_per_tok; every layer has them, each as wide as intermediate_size
//   kQwen     num_experts, num_experts_per_tok, moe_intermediate_size, norm_topk_prob; qwen2_moe besides
//             shared_expert_intermediate_size. decoder_sparse_step: every n-th layer has them, but for mlp_only_layers
//   kGptOss   as kMixtral; swiglu_limit and swiglu_alpha say how gates are clamped
// Threads: any. Errors: the fields remember them.
#pragma once

#include "runtime/files/json_fields.h"
#include "runtime/weights/config.h"
#include "runtime/weights/families.h"

namespace duo {

// Fills config.experts; config.layers and config.intermediate are known.
void ReadExperts(JsonFields& fields, const FamilySpec& spec, ModelConfig& config);

}  // namespace duo
