// ModelConfig: what config.json says about a model, checked, as a plain comparable value. Every number a shape is made
// of is in range here, so that code behind this door multiplies without fear. Reads the layouts of transformers 4 and 5
// (rope_theta at the top or in rope_parameters, rope_scaling's "type" or "rope_type", torch_dtype or dtype).
//
// A key that a file leaves out takes the default of the family's configuration class in Hugging Face transformers
// 5.x (families.h); the sizes have no default. What duo cannot run is refused in one sentence that names it.
// Values only: copy freely, any thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/base/dtype.h"
#include "runtime/weights/families.h"
#include "runtime/weights/quantization_config.h"

namespace duo {

enum class RopeScaling : uint8_t { kNone, kLinear, kDynamic, kLlama3, kYarn };
const char* Name(RopeScaling scaling);  // "none", "linear", "dynamic", "llama3", "yarn"

struct RopeConfig {
  double theta = 10000;  // base of the geometric sequence of frequencies
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1;                             // all but none: new context / original context
  int64_t original_max_position_embeddings = 0;  // llama3, yarn: tokens the model was pretrained for
  double low_freq_factor = 1;                    // llama3
  double high_freq_factor = 4;                   // llama3
  double beta_fast = 32;                         // yarn: rotations at and above which a dimension is kept
  double beta_slow = 1;                          // yarn: rotations at and below which it is interpolated
  double attention_factor = 0;  // yarn: multiplies cos and sin; 0: from factor, mscale and mscale_all_dim
  double mscale = 0;            // yarn; 0: not given
  double mscale_all_dim = 0;    // yarn; 0: not given
  bool truncate = true;         // yarn: round the ramp's ends to whole dimensions
  std::vector<float>
      divisors;  // [head_dim / 2] of the frequencies before any scaling, as some GGUF files have them; or none

  bool operator==(const RopeConfig&) const = default;
};

// Layers whose MLP is a mixture of experts: a router chooses some of them for each token, and their outputs are added
// up with the router's weights.
struct ExpertsConfig {
  int count = 0;                     // experts of a layer; 0: no layer has any
  int chosen = 0;                    // of them, for one token
  int64_t intermediate = 0;          // width of one
  int64_t shared_intermediate = 0;   // width of one more that all tokens go through, weighted by its own gate; 0: none
  bool normalised = false;           // the chosen ones' weights add up to 1; else they are shares of all experts'
  double gate_limit = 0;             // above 0: clamped gates (ClampedGate in kernels/experts.h) instead of silu
  double gate_alpha = 0;             // of those
  std::vector<uint8_t> layers = {};  // [layers], 1 where the MLP is a mixture; empty when count is 0
  bool in(int layer) const { return count > 0 && layers[layer] != 0; }

  bool operator==(const ExpertsConfig&) const = default;
};

// Dual chunk attention (kernels/dual_chunk.h): how positions beyond those that RoPE was trained for are read.
struct DualChunkConfig {
  int64_t chunk_size = 0;  // 0: the model has none
  int64_t local_size = 0;  // less than that
  // Beyond it scores are scaled; 0: nowhere.
  int64_t original_max_position_embeddings = 0;

  // Plain RoPE gives the same up to here.
  int64_t plain() const {
    return original_max_position_embeddings > 0 ? std::min(chunk_size, original_max_position_embeddings) : chunk_size;
  }
  bool operator==(const DualChunkConfig&) const = default;
};

struct ModelConfig {
  Family family = Family::kLlama;
  std::string name_or_path;  // `_name_or_path`: what the model was called where the file was written; may be empty
  int64_t hidden = 0;        // width of the residual stream
  int64_t intermediate = 0;  // width of the MLP, in layers without experts
  int layers = 0;
  int heads = 0;     // query heads, a multiple of kv_heads
  int kv_heads = 0;  // key/value heads: the "heads" of patterns and head plans
  int head_dim = 0;  // even; heads * head_dim need not be `hidden`
  int64_t vocab = 0;
  double rms_norm_eps = 1e-6;
  bool tie_embeddings = false;  // lm_head is embed_tokens
  int64_t max_position_embeddings = 0;
  DualChunkConfig dual_chunk;
  int64_t max_sequence_length = 0;  // some linearly scaled models give it beside max_position_embeddings; 0: not given

  bool attention_bias = false;   // q_proj, k_proj and v_proj have biases
  bool o_bias = false;           // o_proj has one
  bool mlp_bias = false;         // gate_proj, up_proj and down_proj have
  bool expert_bias = false;      // experts and their router have
  bool qk_norm = false;          // RMS norm of every q and k head before RoPE
  bool attention_sinks = false;  // each query head has a learned logit that takes its share of the attention

  // 0: no window. W: in the layers that window_layers marks, position p sees keys j with p - j < W.
  int64_t sliding_window = 0;
  std::vector<uint8_t> window_layers;  // [layers], 1 where the window holds; empty when sliding_window is 0

  ExpertsConfig experts;
  RopeConfig rope;
  DType dtype = DType::kBF16;  // of the stored weights as the config says; the tensors' own dtypes decide
  std::vector<int> bos_ids;    // may be empty
  std::vector<int> eos_ids;    // may be empty; see StopTokens
  QuantizationConfig quantization;

  bool operator==(const ModelConfig&) const = default;
};

// DIR/config.json, or what a GGUF file says (gguf_model.h).
absl::StatusOr<ModelConfig> LoadConfig(const std::string& model);
// The text that all ranks must agree on: of DIR/config.json, or of a GGUF file's keys.
absl::StatusOr<std::string> ConfigText(const std::string& model);
// The same from the file's text; `file` is what errors call it.
absl::StatusOr<ModelConfig> ParseConfig(std::string_view text, const std::string& file);

// The tokens at which generation ends: generation_config.json's eos_token_id where that file gives one, else the
// config's, which is all that a GGUF file has. Ascending, without doubles; empty when neither names any.
absl::StatusOr<std::vector<int>> StopTokens(const std::string& model_dir, const ModelConfig& config);
absl::StatusOr<std::vector<int>> ParseStopTokens(std::string_view text, const std::string& file,
                                                 const ModelConfig& config);

// The longest sequence that duo reads with this model: with yarn original_max_position_embeddings * factor, and with
// dynamic max_position_embeddings * factor, where that is more than max_position_embeddings; otherwise the larger of
// max_position_embeddings and max_sequence_length.
int64_t MaxPositions(const ModelConfig& config);
// And without dual chunk attention.
int64_t MaxPlainPositions(const ModelConfig& config);

}  // namespace duo
