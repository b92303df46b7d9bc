#include <string>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/weights/config.h"
#include "tests/unit/expect.h"

namespace duo {
namespace {

using nlohmann::json;

// The sizes that a config of any family has.
json Sizes() {
  return json{{"hidden_size", 96},
              {"intermediate_size", 160},
              {"num_hidden_layers", 3},
              {"num_attention_heads", 6},
              {"num_key_value_heads", 2},
              {"vocab_size", 101},
              {"max_position_embeddings", 500},
              {"torch_dtype", "bfloat16"}};
}

absl::StatusOr<ModelConfig> Parse(const json& config) { return ParseConfig(config.dump(), "dir/config.json"); }

std::string Error(const json& config) {
  const auto parsed = Parse(config);
  return parsed.ok() ? "accepted" : std::string(parsed.status().message());
}

TEST(ConfigExperts, MixtralsLayersAreAllExperts) {
  json config = Sizes();
  config["model_type"] = "mixtral";
  config["architectures"] = {"MixtralForCausalLM"};
  config["num_local_experts"] = 5;
  config["num_experts_per_tok"] = 3;
  config.erase("rope_theta");
  const auto parsed = Parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->experts.count, 5);
  EXPECT_EQ(parsed->experts.chosen, 3);
  EXPECT_EQ(parsed->experts.intermediate, 160);
  EXPECT_EQ(parsed->experts.shared_intermediate, 0);
  EXPECT_TRUE(parsed->experts.normalised);
  EXPECT_TRUE(Holds(parsed->experts.layers, 1, 1, 1));
  EXPECT_EQ(parsed->sliding_window, 0);
  EXPECT_EQ(parsed->rope.theta, 1e6);  // its class's default
  config["num_experts_per_tok"] = 6;
  EXPECT_TRUE(Contains(Error(config), "num_experts_per_tok must be at most num_local_experts, found 6 and 5"));
  config["num_local_experts"] = 0;
  EXPECT_TRUE(Contains(Error(config), "num_local_experts must be 1 or more"));
}

TEST(ConfigExperts, QwensSayWhichLayersAreExperts) {
  json config = Sizes();
  config["model_type"] = "qwen3_moe";
  config["architectures"] = {"Qwen3MoeForCausalLM"};
  config["num_experts"] = 16;
  config["moe_intermediate_size"] = 24;
  config["norm_topk_prob"] = true;
  auto parsed = Parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->experts.count, 16);
  EXPECT_EQ(parsed->experts.chosen, 8);
  EXPECT_EQ(parsed->experts.intermediate, 24);
  EXPECT_EQ(parsed->experts.shared_intermediate, 0);
  EXPECT_TRUE(parsed->experts.normalised && parsed->qk_norm && !parsed->attention_bias);
  EXPECT_TRUE(Holds(parsed->experts.layers, 1, 1, 1));
  EXPECT_EQ(parsed->head_dim, 16);  // its class has no default, unlike qwen3's
  config["decoder_sparse_step"] = 2;
  EXPECT_TRUE(Holds(Parse(config)->experts.layers, 0, 1, 0));
  config["decoder_sparse_step"] = 1;
  config["mlp_only_layers"] = {0, 2};
  EXPECT_TRUE(Holds(Parse(config)->experts.layers, 0, 1, 0));
  config["mlp_only_layers"] = {0, 1, 2};
  EXPECT_EQ(Parse(config)->experts, ExpertsConfig());
  config["mlp_only_layers"] = json::array();
  config["num_experts"] = 0;
  EXPECT_EQ(Parse(config)->experts, ExpertsConfig());

  config["num_experts"] = 6;
  config["num_experts_per_tok"] = 2;
  config["model_type"] = "qwen2_moe";
  config["architectures"] = {"Qwen2MoeForCausalLM"};
  config["shared_expert_intermediate_size"] = 72;
  config.erase("norm_topk_prob");
  parsed = Parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->experts.shared_intermediate, 72);
  EXPECT_TRUE(!parsed->experts.normalised && parsed->attention_bias && !parsed->o_bias && !parsed->qk_norm);
  config["qkv_bias"] = false;
  EXPECT_FALSE(Parse(config)->attention_bias);
  config["use_sliding_window"] = true;
  EXPECT_TRUE(Contains(Error(config), "use_sliding_window is not supported for qwen2_moe"));
}

TEST(ConfigExperts, GptOssHasSinksAndWindowsInEveryOtherLayer) {
  json config = Sizes();
  config["model_type"] = "gpt_oss";
  config["architectures"] = {"GptOssForCausalLM"};
  config["num_local_experts"] = 4;
  config["rope_scaling"] = {
      {"rope_type", "yarn"}, {"factor", 32.0}, {"original_max_position_embeddings", 100}, {"truncate", false}};
  config["quantization_config"] = {{"quant_method", "mxfp4"}, {"modules_to_not_convert", {"lm_head"}}};
  const auto parsed = Parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(parsed->attention_sinks && parsed->attention_bias && parsed->o_bias && parsed->expert_bias);
  EXPECT_EQ(parsed->experts.chosen, 4);
  EXPECT_EQ(parsed->experts.gate_limit, 7.0);
  EXPECT_EQ(parsed->experts.gate_alpha, 1.702);
  EXPECT_EQ(parsed->sliding_window, 128);
  EXPECT_TRUE(Holds(parsed->window_layers, 1, 0, 1));
  EXPECT_EQ(parsed->head_dim, 64);
  EXPECT_FALSE(parsed->rope.truncate);
  EXPECT_EQ(parsed->quantization.kind, QuantizationKind::kMxfp4);
  config["layer_types"] = {"full_attention", "full_attention", "sliding_attention"};
  EXPECT_TRUE(Holds(Parse(config)->window_layers, 0, 0, 1));
  config["attention_bias"] = false;
  EXPECT_TRUE(Contains(Error(config), "attention_bias false is not supported for gpt_oss"));
  config.erase("attention_bias");
  config.erase("rope_scaling");
  EXPECT_TRUE(Contains(Error(config), "expected rope_scaling or rope_parameters"));
}

}  // namespace
}  // namespace duo
