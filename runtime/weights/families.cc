#include "runtime/weights/families.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "runtime/weights/config.h"

namespace duo {
namespace {

constexpr WeightRecord kQkv = {.role = WeightRole::kQkv,
                               .tensors = {{{"model.layers.{}.self_attn.q_proj.weight", Dim::kQueryHeads},
                                            {"model.layers.{}.self_attn.k_proj.weight", Dim::kKvHeads},
                                            {"model.layers.{}.self_attn.v_proj.weight", Dim::kKvHeads}}},
                               .cols = Dim::kHidden,
                               .bias = &ModelConfig::attention_bias,
                               .random_seed = 2};
constexpr WeightRecord kO = {.role = WeightRole::kO,
                             .tensors = {{{"model.layers.{}.self_attn.o_proj.weight", Dim::kHidden}}},
                             .cols = Dim::kQueryHeads,
                             .bias = &ModelConfig::o_bias,
                             .random_seed = 5};
constexpr WeightRecord kGateUp = {.role = WeightRole::kGateUp,
                                  .tensors = {{{"model.layers.{}.mlp.gate_proj.weight", Dim::kIntermediate},
                                               {"model.layers.{}.mlp.up_proj.weight", Dim::kIntermediate}}},
                                  .cols = Dim::kHidden,
                                  .bias = &ModelConfig::mlp_bias,
                                  .random_seed = 6,
                                  .layers = LayersWith::kDense};
constexpr WeightRecord kDown = {.role = WeightRole::kDown,
                                .tensors = {{{"model.layers.{}.mlp.down_proj.weight", Dim::kHidden}}},
                                .cols = Dim::kIntermediate,
                                .bias = &ModelConfig::mlp_bias,
                                .random_seed = 7,
                                .layers = LayersWith::kDense};

constexpr WeightRecord Norm(WeightRole role, const char* name, Dim rows, bool ModelConfig::*only_if = nullptr) {
  return {.role = role, .tensors = {{{name, rows}}}, .only_if = only_if};
}
constexpr WeightRecord kInputNorm =
    Norm(WeightRole::kInputNorm, "model.layers.{}.input_layernorm.weight", Dim::kHidden);
constexpr WeightRecord kPostNorm =
    Norm(WeightRole::kPostNorm, "model.layers.{}.post_attention_layernorm.weight", Dim::kHidden);
constexpr WeightRecord kQNorm =
    Norm(WeightRole::kQNorm, "model.layers.{}.self_attn.q_norm.weight", Dim::kHeadDim, &ModelConfig::qk_norm);
constexpr WeightRecord kKNorm =
    Norm(WeightRole::kKNorm, "model.layers.{}.self_attn.k_norm.weight", Dim::kHeadDim, &ModelConfig::qk_norm);

// Experts' weights; gate and up of one are two tensors.
constexpr WeightRecord Router(const char* name, const char* shared_gate = nullptr) {
  return {.role = WeightRole::kRouter,
          .tensors = {{{name, Dim::kExperts}, {shared_gate, Dim::kOne}}},
          .cols = Dim::kHidden,
          .random_seed = 10,
          .layers = LayersWith::kExperts,
          .never_coded = true};
}
constexpr WeightRecord ExpertGateUp(const char* gate, const char* up) {
  return {.role = WeightRole::kExpertGateUp,
          .tensors = {{{gate, Dim::kExpertIntermediate}, {up, Dim::kExpertIntermediate}}},
          .cols = Dim::kHidden,
          .random_seed = 12,
          .layers = LayersWith::kExperts,
          .each_expert = true};
}
constexpr WeightRecord ExpertDown(const char* name) {
  return {.role = WeightRole::kExpertDown,
          .tensors = {{{name, Dim::kHidden}}},
          .cols = Dim::kExpertIntermediate,
          .random_seed = 13,
          .layers = LayersWith::kExperts,
          .each_expert = true};
}
constexpr WeightRecord kMixtralExperts[] = {
    Router("model.layers.{}.block_sparse_moe.gate.weight"),
    ExpertGateUp("model.layers.{}.block_sparse_moe.experts.{}.w1.weight",
                 "model.layers.{}.block_sparse_moe.experts.{}.w3.weight"),
    ExpertDown("model.layers.{}.block_sparse_moe.experts.{}.w2.weight"),
};
constexpr WeightRecord kQwenGateUp =
    ExpertGateUp("model.layers.{}.mlp.experts.{}.gate_proj.weight", "model.layers.{}.mlp.experts.{}.up_proj.weight");
constexpr WeightRecord kQwenDown = ExpertDown("model.layers.{}.mlp.experts.{}.down_proj.weight");
constexpr WeightRecord kSharedGateUp = {
    .role = WeightRole::kSharedGateUp,
    .tensors = {{{"model.layers.{}.mlp.shared_expert.gate_proj.weight", Dim::kSharedIntermediate},
                 {"model.layers.{}.mlp.shared_expert.up_proj.weight", Dim::kSharedIntermediate}}},
    .cols = Dim::kHidden,
    .random_seed = 14,
    .layers = LayersWith::kExperts};
constexpr WeightRecord kSharedDown = {
    .role = WeightRole::kSharedDown,
    .tensors = {{{"model.layers.{}.mlp.shared_expert.down_proj.weight", Dim::kHidden}}},
    .cols = Dim::kSharedIntermediate,
    .random_seed = 16,
    .layers = LayersWith::kExperts};

constexpr WeightRecord kMixtralLayer[] = {
    kQkv, kO, kMixtralExperts[0], kMixtralExperts[1], kMixtralExperts[2], kInputNorm, kPostNorm};
constexpr WeightRecord kQwen2MoeLayer[] = {
    kQkv,
    kO,
    kGateUp,
    kDown,
    Router("model.layers.{}.mlp.gate.weight", "model.layers.{}.mlp.shared_expert_gate.weight"),
    kQwenGateUp,
    kQwenDown,
    kSharedGateUp,
    kSharedDown,
    kInputNorm,
    kPostNorm};
constexpr WeightRecord kQwen3MoeLayer[] = {
    kQkv,       kO,        kGateUp, kDown, Router("model.layers.{}.mlp.gate.weight"), kQwenGateUp, kQwenDown,
    kInputNorm, kPostNorm, kQNorm,  kKNorm};
// gpt-oss keeps all experts of a layer in one tensor, gate and up rows in turn.
constexpr const char* kStackedGateUp = "model.layers.{}.mlp.experts.gate_up_proj";
constexpr WeightRecord kGptOssLayer[] = {
    kQkv,
    kO,
    {.role = WeightRole::kRouter,
     .tensors = {{{"model.layers.{}.mlp.router.weight", Dim::kExperts}}},
     .cols = Dim::kHidden,
     .bias = &ModelConfig::expert_bias,
     .random_seed = 10,
     .layers = LayersWith::kExperts,
     .never_coded = true},
    {.role = WeightRole::kExpertGateUp,
     .tensors = {{{kStackedGateUp, Dim::kExpertIntermediate, {2, 0}},
                  {kStackedGateUp, Dim::kExpertIntermediate, {2, 1}}}},
     .cols = Dim::kHidden,
     .bias = &ModelConfig::expert_bias,
     .random_seed = 12,
     .layers = LayersWith::kExperts,
     .each_expert = true},
    {.role = WeightRole::kExpertDown,
     .tensors = {{{"model.layers.{}.mlp.experts.down_proj", Dim::kHidden, {1, 0}}}},
     .cols = Dim::kExpertIntermediate,
     .bias = &ModelConfig::expert_bias,
     .random_seed = 13,
     .layers = LayersWith::kExperts,
     .each_expert = true},
    kInputNorm,
    kPostNorm,
    Norm(WeightRole::kSinks, "model.layers.{}.self_attn.sinks", Dim::kHeads),
};
constexpr WeightRecord kLayer[] = {kQkv, kO, kGateUp, kDown, kInputNorm, kPostNorm, kQNorm, kKNorm};

constexpr WeightRecord kOuter[] = {
    Norm(WeightRole::kFinalNorm, "model.norm.weight", Dim::kHidden),
    {.role = WeightRole::kEmbedding,
     .tensors = {{{"model.embed_tokens.weight", Dim::kVocab}}},
     .cols = Dim::kHidden,
     .random_seed = 8},
    {.role = WeightRole::kHead,
     .tensors = {{{"lm_head.weight", Dim::kVocab}}},
     .cols = Dim::kHidden,
     .unless = &ModelConfig::tie_embeddings,
     .random_seed = 9},
};

// In the order of Family.
constexpr FamilySpec kFamilies[] = {
    {.family = Family::kLlama,
     .model_type = "llama",
     .layer = kLayer,
     .outer = kOuter,
     .qkv_bias = BiasRule::kConfig,
     .o_bias = BiasRule::kConfig,
     .mlp_bias = BiasRule::kConfig,
     .default_max_position_embeddings = 2048},
    {.family = Family::kMistral,
     .model_type = "mistral",
     .layer = kLayer,
     .outer = kOuter,
     .window = WindowRule::kAllLayers,
     .default_kv_heads = 8,
     .default_max_position_embeddings = 131072,
     .default_sliding_window = 4096},
    {.family = Family::kQwen2,
     .model_type = "qwen2",
     .layer = kLayer,
     .outer = kOuter,
     .qkv_bias = BiasRule::kAlways,
     .window = WindowRule::kByLayer,
     .default_kv_heads = 32,
     .default_sliding_window = 4096},
    {.family = Family::kQwen3,
     .model_type = "qwen3",
     .layer = kLayer,
     .outer = kOuter,
     .qkv_bias = BiasRule::kConfig,
     .o_bias = BiasRule::kConfig,
     .qk_norm = true,
     .window = WindowRule::kByLayer,
     .default_kv_heads = 32,
     .default_head_dim = 128,
     .default_sliding_window = 4096},
    {.family = Family::kMixtral,
     .model_type = "mixtral",
     .layer = kMixtralLayer,
     .outer = kOuter,
     .window = WindowRule::kAllLayers,
     .experts = ExpertsRule::kMixtral,
     .default_kv_heads = 8,
     .default_max_position_embeddings = 131072,
     .default_rope_theta = 1e6},
    {.family = Family::kQwen2Moe,
     .model_type = "qwen2_moe",
     .layer = kQwen2MoeLayer,
     .outer = kOuter,
     .qkv_bias = BiasRule::kAlways,
     .experts = ExpertsRule::kQwen,
     .default_kv_heads = 16},
    {.family = Family::kQwen3Moe,
     .model_type = "qwen3_moe",
     .layer = kQwen3MoeLayer,
     .outer = kOuter,
     .qkv_bias = BiasRule::kConfig,
     .o_bias = BiasRule::kConfig,
     .qk_norm = true,
     .experts = ExpertsRule::kQwen,
     .default_kv_heads = 4},
    {.family = Family::kGptOss,
     .model_type = "gpt_oss",
     .layer = kGptOssLayer,
     .outer = kOuter,
     .qkv_bias = BiasRule::kAlways,
     .o_bias = BiasRule::kAlways,
     .window = WindowRule::kAlternate,
     .experts = ExpertsRule::kGptOss,
     .attention_sinks = true,
     .default_kv_heads = 8,
     .default_head_dim = 64,
     .default_max_position_embeddings = 131072,
     .default_sliding_window = 128,
     .default_rope_theta = 150000},
};

}  // namespace

absl::Span<const FamilySpec> Families() { return kFamilies; }

const FamilySpec& Spec(Family family) {
  const FamilySpec& spec = kFamilies[static_cast<size_t>(family)];
  DUO_CHECK(spec.family == family);
  return spec;
}

const FamilySpec* FindFamily(std::string_view model_type) {
  for (const FamilySpec& spec : kFamilies) {
    if (model_type == spec.model_type) return &spec;
  }
  return nullptr;
}

std::string KnownModelTypes() {
  std::string names;
  for (const FamilySpec& spec : kFamilies) absl::StrAppend(&names, names.empty() ? "" : ", ", spec.model_type);
  return names;
}

std::string LayerName(const char* pattern, int layer, int expert) {
  std::string name = pattern;
  size_t at = name.find("{}");
  DUO_CHECK(at != std::string::npos);
  name.replace(at, 2, absl::StrCat(layer));
  at = name.find("{}");
  if (at != std::string::npos) name.replace(at, 2, absl::StrCat(expert));
  return name;
}

std::string BiasName(std::string_view weight_name) {
  constexpr std::string_view kWeight = ".weight";
  DUO_CHECK(weight_name.size() > kWeight.size() && weight_name.substr(weight_name.size() - kWeight.size()) == kWeight);
  return std::string(weight_name.substr(0, weight_name.size() - kWeight.size())) + ".bias";
}

}  // namespace duo
