// The model families duo runs: one table, one forward. All are pre-norm decoders with RoPE, grouped-query attention and
// a SwiGLU MLP or a mixture of them, stored under the tensor names of Hugging Face's checkpoints; a row lists a
// family's weights and says how the family differs. A projection's bias is stored under its weight's name with ".bias"
// for ".weight". Constant data, any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/types/span.h"
#include "runtime/weights/weight_records.h"

namespace duo {

enum class Family : uint8_t { kLlama, kMistral, kQwen2, kQwen3, kMixtral, kQwen2Moe, kQwen3Moe, kGptOss };

// How a family's config.json names the layers with a sliding window.
enum class WindowRule : uint8_t {
  kNone,       // never a window
  kAllLayers,  // sliding_window holds in every layer
  kByLayer,    // only with use_sliding_window: layer_types, else the layers from max_window_layers on
  kAlternate,  // layer_types, else the first layer and every other; such layers keep rings, not pages (window_rings.h)
};

// What a bias follows.
enum class BiasRule : uint8_t { kNever, kAlways, kConfig };

// How a family's config.json names its experts (config_experts.h).
enum class ExpertsRule : uint8_t { kNone, kMixtral, kQwen, kGptOss };

// What a row leaves out is as most families have it.
struct FamilySpec {
  Family family;
  const char* model_type;                // config.json's
  absl::Span<const WeightRecord> layer;  // the weights of a layer, in the order they have in memory
  absl::Span<const WeightRecord> outer;  // those of the model around its layers
  BiasRule qkv_bias = BiasRule::kNever;  // kConfig: attention_bias
  BiasRule o_bias = BiasRule::kNever;    // kConfig: attention_bias
  BiasRule mlp_bias = BiasRule::kNever;  // kConfig: mlp_bias
  bool qk_norm = false;
  WindowRule window = WindowRule::kNone;
  ExpertsRule experts = ExpertsRule::kNone;
  bool attention_sinks = false;
  // Defaults of keys that a config.json may leave out, as in transformers' class; 0: none.
  int default_kv_heads = 0;  // 0: as many as query heads
  int default_head_dim = 0;  // 0: hidden / heads
  int64_t default_max_position_embeddings = 32768;
  int64_t default_sliding_window = 0;
  double default_rope_theta = 10000;
};

absl::Span<const FamilySpec> Families();
const FamilySpec& Spec(Family family);
const FamilySpec* FindFamily(std::string_view model_type);  // null when unknown
std::string KnownModelTypes();                              // "llama, mistral, .."

// The name with its first {} replaced by the layer, and its second, where it has one, by the expert.
std::string LayerName(const char* pattern, int layer, int expert = 0);
// "x.bias" of "x.weight".
std::string BiasName(std::string_view weight_name);

}  // namespace duo
