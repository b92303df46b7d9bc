#include "runtime/weights/families.h"

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"

namespace duo {
namespace {

constexpr TensorNames kNames = {
    .embedding = "model.embed_tokens.weight",
    .input_norm = "model.layers.{}.input_layernorm.weight",
    .q = "model.layers.{}.self_attn.q_proj.weight",
    .k = "model.layers.{}.self_attn.k_proj.weight",
    .v = "model.layers.{}.self_attn.v_proj.weight",
    .o = "model.layers.{}.self_attn.o_proj.weight",
    .q_norm = "model.layers.{}.self_attn.q_norm.weight",
    .k_norm = "model.layers.{}.self_attn.k_norm.weight",
    .post_norm = "model.layers.{}.post_attention_layernorm.weight",
    .gate = "model.layers.{}.mlp.gate_proj.weight",
    .up = "model.layers.{}.mlp.up_proj.weight",
    .down = "model.layers.{}.mlp.down_proj.weight",
    .final_norm = "model.norm.weight",
    .lm_head = "lm_head.weight",
};

// In the order of Family.
constexpr FamilySpec kFamilies[] = {
    {.family = Family::kLlama,
     .model_type = "llama",
     .names = kNames,
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
     .names = kNames,
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
     .names = kNames,
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
     .names = kNames,
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
