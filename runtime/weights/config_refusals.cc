#include "runtime/weights/config_refusals.h"

#include <limits>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"

namespace duo {
namespace {

// Why a well-known model type is not one of ours, so that the refusal says more than "unknown". Prefixes, longest first
// where one begins with another.
struct Reason {
  std::string_view prefix, reason;
};
constexpr Reason kReasons[] = {
    {"deepseek", "it uses multi-head latent attention and a mixture of experts"},
    {"kimi", "it uses multi-head latent attention and a mixture of experts"},
    {"qwen3_next", "it mixes linear and full attention"},
    {"qwen2_vl", "it takes images"},
    {"qwen2_5_vl", "it takes images"},
    {"mistral3", "it takes images"},
    {"mllama", "it takes images"},
    {"llava", "it takes images"},
    {"llama4", "it attends within chunks, and some of its layers have no positions"},
    {"olmoe", "it norms queries and keys over all heads together"},
    {"dbrx", "its layers differ"},
    {"gpt2", "it has learned positions instead of RoPE"},
    {"opt", "it has learned positions instead of RoPE"},
    {"gpt_neox", "it rotates only a part of each head and is not a SwiGLU model"},
    {"gptj", "it rotates only a part of each head and is not a SwiGLU model"},
    {"bloom", "it has ALiBi positions instead of RoPE"},
    {"mpt", "it has ALiBi positions instead of RoPE"},
    {"bert", "it is an encoder"},
    {"roberta", "it is an encoder"},
    {"xlm", "it is an encoder"},
    {"distilbert", "it is an encoder"},
    {"modernbert", "it is an encoder"},
    {"deberta", "it is an encoder"},
    {"electra", "it is an encoder"},
    {"t5", "it is an encoder with a decoder"},
    {"mt5", "it is an encoder with a decoder"},
    {"bart", "it is an encoder with a decoder"},
    {"whisper", "it is an encoder with a decoder"},
    {"mamba", "it is a state-space model without attention"},
    {"rwkv", "it is a recurrent model without attention"},
    {"gemma", "its norms, activation and embedding scale differ"},
    {"phi", "its layers differ"},
};

}  // namespace

absl::Status UnknownModelType(const std::string& file, const std::string& type) {
  std::string why;
  for (const Reason& reason : kReasons) {
    if (std::string_view(type).substr(0, reason.prefix.size()) == reason.prefix) {
      why = absl::StrCat(" (", std::string(reason.reason), ")");
      break;
    }
  }
  return absl::UnimplementedError(
      absl::StrCat(file, ": model_type \"", type, "\" is not supported", why, "; supported are ", KnownModelTypes()));
}

void RefuseUnsupported(JsonFields& fields, const FamilySpec& spec) {
  for (const char* key : {"num_local_experts", "num_experts", "n_routed_experts", "moe_intermediate_size"}) {
    if (spec.experts == ExpertsRule::kNone && fields.Int(key, 0, std::numeric_limits<int32_t>::max(), 0) > 0)
      fields.Fail(absl::StrCat("a ", spec.model_type, " model with a mixture of experts is not supported (", key, ")"));
  }
  for (const char* key : {"kv_lora_rank", "q_lora_rank"}) {
    if (fields.Has(key)) fields.Fail(absl::StrCat("multi-head latent attention is not supported (", key, ")"));
  }
  if (fields.Bool("is_encoder_decoder", false)) fields.Fail("encoder-decoder models are not supported");
  if (fields.Bool("add_cross_attention", false)) fields.Fail("cross-attention is not supported");
  const std::string activation = fields.String("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    fields.Fail(absl::StrCat("hidden_act \"", activation, "\" is not supported; expected silu"));
  }
  if (fields.Number("partial_rotary_factor", 0, 1, 1) != 1) {
    fields.Fail("partial_rotary_factor below 1 is not supported");
  }
  const std::vector<std::string> architectures = fields.Strings("architectures");
  const std::string_view suffix = "ForCausalLM";
  if (!architectures.empty()) {
    const std::string_view name = architectures[0];
    if (name.size() < suffix.size() || name.substr(name.size() - suffix.size()) != suffix) {
      fields.Fail(absl::StrCat("architecture \"", architectures[0], "\" is not supported; expected a ", spec.model_type,
                               " model for causal language modelling (..ForCausalLM)"));
    }
  }
  if (spec.qkv_bias == BiasRule::kNever && fields.Bool("attention_bias", false)) {
    fields.Fail(absl::StrCat("attention_bias is not supported for ", spec.model_type));
  }
  if (spec.mlp_bias == BiasRule::kNever && fields.Bool("mlp_bias", false)) {
    fields.Fail(absl::StrCat("mlp_bias is not supported for ", spec.model_type));
  }
}

}  // namespace duo
