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
                                  .random_seed = 6};
constexpr WeightRecord kDown = {.role = WeightRole::kDown,
                                .tensors = {{{"model.layers.{}.mlp.down_proj.weight", Dim::kHidden}}},
                                .cols = Dim::kIntermediate,
                                .bias = &ModelConfig::mlp_bias,
                                .random_seed = 7};

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
     .qk_norm = false,
     .window = WindowRule::kNone,
     .default_kv_heads = 0,
     .default_head_dim = 0,
     .default_max_position_embeddings = 2048,
     .default_sliding_window = 0},
    {.family = Family::kMistral,
     .model_type = "mistral",
     .layer = kLayer,
     .outer = kOuter,
     .qkv_bias = BiasRule::kNever,
     .o_bias = BiasRule::kNever,
     .mlp_bias = BiasRule::kNever,
     .qk_norm = false,
     .window = WindowRule::kAllLayers,
     .default_kv_heads = 8,
     .default_head_dim = 0,
     .default_max_position_embeddings = 131072,
     .default_sliding_window = 4096},
    {.family = Family::kQwen2,
     .model_type = "qwen2",
     .layer = kLayer,
     .outer = kOuter,
     .qkv_bias = BiasRule::kAlways,
     .o_bias = BiasRule::kNever,
     .mlp_bias = BiasRule::kNever,
     .qk_norm = false,
     .window = WindowRule::kByLayer,
     .default_kv_heads = 32,
     .default_head_dim = 0,
     .default_max_position_embeddings = 32768,
     .default_sliding_window = 4096},
    {.family = Family::kQwen3,
     .model_type = "qwen3",
     .layer = kLayer,
     .outer = kOuter,
     .qkv_bias = BiasRule::kConfig,
     .o_bias = BiasRule::kConfig,
     .mlp_bias = BiasRule::kNever,
     .qk_norm = true,
     .window = WindowRule::kByLayer,
     .default_kv_heads = 32,
     .default_head_dim = 128,
     .default_max_position_embeddings = 32768,
     .default_sliding_window = 4096},
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

std::string LayerName(const char* pattern, int layer) {
  const std::string_view text = pattern;
  const size_t at = text.find("{}");
  DUO_CHECK(at != std::string_view::npos);
  return absl::StrCat(std::string(text.substr(0, at)), layer, std::string(text.substr(at + 2)));
}

std::string BiasName(std::string_view weight_name) {
  constexpr std::string_view kWeight = ".weight";
  DUO_CHECK(weight_name.size() > kWeight.size() && weight_name.substr(weight_name.size() - kWeight.size()) == kWeight);
  return std::string(weight_name.substr(0, weight_name.size() - kWeight.size())) + ".bias";
}

}  // namespace duo
