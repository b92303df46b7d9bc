#include "runtime/weights/config_experts.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace duo {
namespace {

constexpr int64_t kMostExperts = 1024, kMostChosen = 64;  // what the kernels take
constexpr int64_t kMostColumns = 1 << 22;

void ReadCounts(JsonFields& fields, const char* count_key, int count_default, int chosen_default,
                ExpertsConfig& experts) {
  experts.count = static_cast<int>(fields.Int(count_key, 0, kMostExperts, count_default));
  if (experts.count == 0) return;
  experts.chosen = static_cast<int>(fields.Int("num_experts_per_tok", 1, kMostChosen, chosen_default));
  if (fields.ok() && experts.chosen > experts.count) {
    fields.Fail(absl::StrCat("num_experts_per_tok must be at most ", count_key, ", found ", experts.chosen, " and ",
                             experts.count));
  }
}

void ReadMixtral(JsonFields& fields, ModelConfig& config) {
  ExpertsConfig& experts = config.experts;
  ReadCounts(fields, "num_local_experts", 8, 2, experts);
  if (experts.count == 0) fields.Fail("num_local_experts must be 1 or more, found 0");
  experts.intermediate = config.intermediate;
  experts.normalised = true;
  experts.layers.assign(config.layers, 1);
}

// Qwen2-MoE and Qwen3-MoE; their classes' defaults differ.
void ReadQwen(JsonFields& fields, const FamilySpec& spec, ModelConfig& config) {
  const bool older = spec.family == Family::kQwen2Moe;
  if (fields.Bool("use_sliding_window", false)) {
    fields.Fail(absl::StrCat("use_sliding_window is not supported for ", spec.model_type));
    return;
  }
  if (older) config.attention_bias = fields.Bool("qkv_bias", true);
  ExpertsConfig& experts = config.experts;
  ReadCounts(fields, "num_experts", older ? 60 : 128, older ? 4 : 8, experts);
  const int64_t step = fields.Int("decoder_sparse_step", 1, 1 << 20, 1);
  const std::vector<int> dense = fields.Ids("mlp_only_layers");
  if (!fields.ok() || experts.count == 0) return;
  experts.layers.assign(config.layers, 0);
  for (int layer = 0; layer < config.layers; ++layer) {
    experts.layers[layer] = (layer + 1) % step == 0 && std::find(dense.begin(), dense.end(), layer) == dense.end();
  }
  if (std::count(experts.layers.begin(), experts.layers.end(), 1) == 0) {
    experts = ExpertsConfig();
    return;
  }
  experts.intermediate = fields.Int("moe_intermediate_size", 1, kMostColumns, older ? 1408 : 768);
  if (older) experts.shared_intermediate = fields.Int("shared_expert_intermediate_size", 1, kMostColumns, 5632);
  experts.normalised = fields.Bool("norm_topk_prob", false);
}

void ReadGptOss(JsonFields& fields, ModelConfig& config) {
  ReadCounts(fields, "num_local_experts", 128, 4, config.experts);
  if (config.experts.count == 0) fields.Fail("num_local_experts must be 1 or more, found 0");
  if (!fields.Bool("attention_bias", true)) fields.Fail("attention_bias false is not supported for gpt_oss");
  // Its class has a scaling of its own where the file has none: better asked for than guessed.
  if (!fields.Has("rope_scaling") && !fields.Has("rope_parameters")) {
    fields.Fail("expected rope_scaling or rope_parameters, found none");
  }
  config.expert_bias = true;
  ExpertsConfig& experts = config.experts;
  experts.intermediate = config.intermediate;
  experts.normalised = true;
  experts.gate_limit = fields.Number("swiglu_limit", 1e-3, 1e6, 7.0);
  experts.gate_alpha = fields.Number("swiglu_alpha", 1e-3, 1e6, 1.702);
  experts.layers.assign(config.layers, 1);
}

}  // namespace

void ReadExperts(JsonFields& fields, const FamilySpec& spec, ModelConfig& config) {
  if (!fields.ok() || spec.experts == ExpertsRule::kNone) return;
  if (spec.experts == ExpertsRule::kMixtral) {
    ReadMixtral(fields, config);
  } else if (spec.experts == ExpertsRule::kGptOss) {
    ReadGptOss(fields, config);
  } else {
    ReadQwen(fields, spec, config);
  }
}

}  // namespace duo
