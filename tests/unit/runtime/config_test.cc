#include "runtime/weights/config.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/weights/supported_quantization.h"
#include "tests/support/source_dir.h"
#include "tests/unit/expect.h"

namespace duo {
namespace {

using nlohmann::json;

json Llama() {
  return json{{"architectures", {"LlamaForCausalLM"}},
              {"model_type", "llama"},
              {"hidden_size", 96},
              {"intermediate_size", 160},
              {"num_hidden_layers", 3},
              {"num_attention_heads", 6},
              {"num_key_value_heads", 2},
              {"vocab_size", 101},
              {"max_position_embeddings", 500},
              {"rms_norm_eps", 1e-5},
              {"rope_theta", 50000.0},
              {"torch_dtype", "bfloat16"},
              {"bos_token_id", 1},
              {"eos_token_id", {2, 7}}};
}

json Qwen3() {
  json config = Llama();
  config["model_type"] = "qwen3";
  config["architectures"] = {"Qwen3ForCausalLM"};
  return config;
}

absl::StatusOr<ModelConfig> Parse(const json& config) { return ParseConfig(config.dump(), "dir/config.json"); }

std::string Error(const json& config) {
  const auto parsed = Parse(config);
  return parsed.ok() ? "accepted" : std::string(parsed.status().message());
}

// Llama() with one key replaced.
std::string ErrorWith(const char* key, const json& value) {
  json config = Llama();
  config[key] = value;
  return Error(config);
}

TEST(Config, ReadsALlama) {
  const auto parsed = Parse(Llama());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ModelConfig expected;
  expected.family = Family::kLlama;
  expected.hidden = 96;
  expected.intermediate = 160;
  expected.layers = 3;
  expected.heads = 6;
  expected.kv_heads = 2;
  expected.head_dim = 16;
  expected.vocab = 101;
  expected.rms_norm_eps = 1e-5;
  expected.max_position_embeddings = 500;
  expected.rope.theta = 50000;
  expected.dtype = DType::kBF16;
  expected.bos_ids = {1};
  expected.eos_ids = {2, 7};
  EXPECT_EQ(*parsed, expected);
}

TEST(Config, OldLlamaFilesLeaveKeysOut) {
  json config = Llama();
  for (const char* key : {"num_key_value_heads", "rope_theta", "torch_dtype", "bos_token_id", "eos_token_id"}) {
    config.erase(key);
  }
  const auto parsed = Parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->kv_heads, 6);
  EXPECT_EQ(parsed->rope.theta, 10000);
  EXPECT_EQ(parsed->dtype, DType::kF32);
  EXPECT_TRUE(parsed->bos_ids.empty());
}

TEST(Config, BothLayoutsOfTransformersMeanTheSame) {
  json old_layout = Llama(), new_layout = Llama();
  old_layout["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  new_layout.erase("rope_theta");
  new_layout.erase("torch_dtype");
  new_layout["dtype"] = "bfloat16";
  new_layout["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2.0}, {"rope_theta", 50000.0}};
  const auto a = Parse(old_layout), b = Parse(new_layout);
  ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
  EXPECT_EQ(*a, *b);
  EXPECT_EQ(a->rope.scaling, RopeScaling::kLinear);
  EXPECT_EQ(a->rope.factor, 2);
}

TEST(Config, FamiliesDifferInBiasesNormsAndHeadSize) {
  json config = Llama();
  config["attention_bias"] = true;
  config["mlp_bias"] = true;
  auto llama = Parse(config);
  ASSERT_TRUE(llama.ok()) << llama.status();
  EXPECT_TRUE(llama->attention_bias && llama->o_bias && llama->mlp_bias && !llama->qk_norm);

  config = Llama();
  config["model_type"] = "qwen2";
  auto qwen2 = Parse(config);
  ASSERT_TRUE(qwen2.ok()) << qwen2.status();
  EXPECT_TRUE(qwen2->attention_bias && !qwen2->o_bias && !qwen2->mlp_bias && !qwen2->qk_norm);

  auto qwen3 = Parse(Qwen3());
  ASSERT_TRUE(qwen3.ok()) << qwen3.status();
  EXPECT_TRUE(!qwen3->attention_bias && !qwen3->o_bias && qwen3->qk_norm);
  EXPECT_EQ(qwen3->head_dim, 128);  // its class's default, not hidden / heads
}

TEST(Config, MistralWindowIsInEveryLayerUnlessNull) {
  json config = Llama();
  config["model_type"] = "mistral";
  config["sliding_window"] = 64;
  auto windowed = Parse(config);
  ASSERT_TRUE(windowed.ok()) << windowed.status();
  EXPECT_EQ(windowed->sliding_window, 64);
  EXPECT_TRUE(Holds(windowed->window_layers, 1, 1, 1));
  config["sliding_window"] = nullptr;
  auto open = Parse(config);
  ASSERT_TRUE(open.ok()) << open.status();
  EXPECT_EQ(open->sliding_window, 0);
  EXPECT_TRUE(open->window_layers.empty());
  config.erase("sliding_window");  // v0.1 relies on the class's default
  EXPECT_EQ(Parse(config)->sliding_window, 4096);
  config["head_dim"] = 32;  // Nemo
  EXPECT_EQ(Parse(config)->head_dim, 32);
}

TEST(Config, QwenWindowsFollowTheirSwitchAndTheirLayers) {
  json config = Qwen3();
  config["sliding_window"] = 64;
  config["max_window_layers"] = 2;
  EXPECT_EQ(Parse(config)->sliding_window, 0);  // use_sliding_window is off
  config["use_sliding_window"] = true;
  EXPECT_TRUE(Holds(Parse(config)->window_layers, 0, 0, 1));
  config["layer_types"] = {"sliding_attention", "full_attention", "sliding_attention"};
  EXPECT_TRUE(Holds(Parse(config)->window_layers, 1, 0, 1));
  config["layer_types"] = {"full_attention", "full_attention", "full_attention"};
  EXPECT_EQ(Parse(config)->sliding_window, 0);
  config["layer_types"] = {"full_attention", "chunked_attention", "full_attention"};
  EXPECT_TRUE(Contains(Error(config), "layer type \"chunked_attention\" is not supported"));
  config["layer_types"] = {"full_attention"};
  EXPECT_TRUE(Contains(Error(config), "layer_types must have 3 entries"));
}

TEST(Config, PlainPositionsEndWhereDualChunkAttentionBegins) {
  json config = Llama();
  config["max_position_embeddings"] = 1010000;
  EXPECT_EQ(MaxPlainPositions(*Parse(config)), 1010000);
  config["dual_chunk_attention_config"] = {
      {"chunk_size", 262144}, {"local_size", 8192}, {"original_max_position_embeddings", 262000}};
  EXPECT_EQ(MaxPositions(*Parse(config)), 1010000);
  EXPECT_EQ(MaxPlainPositions(*Parse(config)), 262000);
  EXPECT_EQ(Parse(config)->dual_chunk, (DualChunkConfig{262144, 8192, 262000}));
  config["dual_chunk_attention_config"].erase("original_max_position_embeddings");
  EXPECT_EQ(MaxPlainPositions(*Parse(config)), 262144);
  config["dual_chunk_attention_config"]["original_max_position_embeddings"] = 500000;  // distances end before
  EXPECT_EQ(MaxPlainPositions(*Parse(config)), 262144);
  config["dual_chunk_attention_config"] = json::object();
  EXPECT_EQ(Parse(config)->dual_chunk, (DualChunkConfig{8192, 1024, 0}));
  config["dual_chunk_attention_config"] = {{"chunk_size", 1024}, {"local_size", 1024}};
  EXPECT_TRUE(Contains(Error(config), "local_size must be below chunk_size, found 1024 and 1024")) << Error(config);
  config["dual_chunk_attention_config"] = nullptr;
  EXPECT_EQ(MaxPlainPositions(*Parse(config)), 1010000);
  config["dual_chunk_attention_config"] = 5;
  EXPECT_TRUE(Contains(Error(config), "dual_chunk_attention_config must be an object, found 5"));
}

TEST(Config, Fp8HasBlocks) {
  json config = Llama();
  config["quantization_config"] = {{"quant_method", "fp8"}, {"weight_block_size", {64, 128}}};
  const auto parsed = Parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->quantization.kind, QuantizationKind::kFp8Blocks);
  EXPECT_EQ(parsed->quantization.block_rows, 64);
  EXPECT_EQ(parsed->quantization.block_cols, 128);
  EXPECT_TRUE(KeepsCodes(parsed->quantization));
  EXPECT_EQ(StoredBits(parsed->quantization), 8);
  EXPECT_EQ(Describe(parsed->quantization), "fp8 e4m3 in blocks of 64 x 128");
  config["quantization_config"]["weight_block_size"] = nullptr;
  EXPECT_EQ(Describe(Parse(config)->quantization), "fp8 e4m3 with a scale for each tensor");
  config["quantization_config"]["weight_block_size"] = {64};
  EXPECT_TRUE(Contains(Error(config), "weight_block_size must be two whole numbers"));
  config["quantization_config"] = {{"quant_method", "fp8"}, {"fmt", "e5m2"}};
  EXPECT_TRUE(Contains(Error(config), "fmt \"e5m2\" is not supported"));
}

TEST(Config, CompressedTensorsHasBlocks) {
  json config = Llama();
  json weights = {{"num_bits", 8}, {"type", "float"}, {"strategy", "block"}, {"block_structure", {128, 64}}};
  config["quantization_config"] = {{"quant_method", "compressed-tensors"},
                                   {"format", "float-quantized"},
                                   {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"weights", weights}}}}}};
  const auto parsed = Parse(config);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->quantization.block_rows, 128);
  EXPECT_EQ(parsed->quantization.block_cols, 64);
  EXPECT_EQ(Describe(parsed->quantization),
            "compressed-tensors float-quantized, weights 8-bit float in blocks of 128 x 64");
  json& group = config["quantization_config"]["config_groups"]["group_0"];
  group["weights"].erase("block_structure");
  EXPECT_TRUE(Contains(Error(config), "block_structure must be two whole numbers")) << Error(config);
  group["weights"]["block_structure"] = {128, 128};
  group["weights"]["type"] = "int";
  const absl::Status refused = CheckSupported(Parse(config)->quantization, "config.json");
  EXPECT_TRUE(Contains(std::string(refused.message()), "scales per tensor or channel, and of floats per block, are"));
}

TEST(Config, UnsupportedModelsAreNamed) {
  for (const auto& [type, word] : {std::pair<std::string, std::string>{"gpt2", "learned positions"},
                                   {"deepseek_v3", "multi-head latent attention"},
                                   {"llama4", "attends within chunks"},
                                   {"bert", "encoder"},
                                   {"t5", "encoder"},
                                   {"nonesuch", "supported are llama, mistral, qwen2, qwen3, mixtral"}}) {
    const std::string error = ErrorWith("model_type", type);
    EXPECT_TRUE(Contains(error, "dir/config.json: model_type \"" + type + "\" is not supported"));
    EXPECT_TRUE(Contains(error, word));
    EXPECT_TRUE(Contains(error, "supported are llama"));
  }
  json config = Llama();
  config.erase("model_type");
  EXPECT_TRUE(Contains(Error(config), "has no model_type"));
  EXPECT_TRUE(Contains(ErrorWith("num_local_experts", 8), "a llama model with a mixture of experts is not supported"));
  EXPECT_TRUE(Contains(ErrorWith("kv_lora_rank", 512), "multi-head latent attention"));
  EXPECT_TRUE(Contains(ErrorWith("hidden_act", "gelu"), "hidden_act \"gelu\""));
  EXPECT_TRUE(Contains(ErrorWith("partial_rotary_factor", 0.5), "partial_rotary_factor"));
  EXPECT_TRUE(Contains(ErrorWith("architectures", {"LlamaForSequenceClassification"}),
                       "\"LlamaForSequenceClassification\" is not supported"));
  EXPECT_TRUE(Contains(ErrorWith("is_encoder_decoder", true), "encoder-decoder"));
  EXPECT_TRUE(Contains(ErrorWith("torch_dtype", "float64"), "dtype \"float64\""));
  EXPECT_TRUE(Contains(ErrorWith("rope_scaling", {{"type", "longrope"}, {"factor", 2.0}}),
                       "RoPE scaling \"longrope\" is not supported; supported are default, linear"));
  EXPECT_TRUE(Contains(ErrorWith("rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}),
                       "RoPE parameters by layer type"));
}

TEST(Config, ValuesOutOfRangeNameTheKeyAndTheValue) {
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "num_key_value_heads", "vocab_size", "max_position_embeddings", "head_dim"}) {
    for (const json& bad : {json(0), json(-3), json(int64_t{1} << 40), json(18446744073709551615u), json(2.5),
                            json("64"), json(json::array()), json(true)}) {
      const std::string error = ErrorWith(key, bad);
      EXPECT_TRUE(Contains(error, std::string("dir/config.json: ") + key + " must be a whole number from 1 to"));
      EXPECT_TRUE(Contains(error, "found " + bad.dump()));
    }
  }
  for (const char* key :
       {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"}) {
    json config = Llama();
    config.erase(key);
    EXPECT_TRUE(Contains(Error(config), std::string(key) + " must be a whole number")) << key;
  }
  EXPECT_TRUE(
      Contains(ErrorWith("num_key_value_heads", 4), "must be a multiple of num_key_value_heads, found 6 and 4"));
  EXPECT_TRUE(Contains(ErrorWith("hidden_size", 97), "found 97 and 6"));
  EXPECT_TRUE(Contains(ErrorWith("head_dim", 15), "head_dim must be even, found 15"));
  EXPECT_TRUE(Contains(ErrorWith("hidden_size", 6 * 1026), "head_dim must be at most 1024"));
  EXPECT_TRUE(Contains(ErrorWith("rms_norm_eps", -1.0), "rms_norm_eps must be a number"));
  EXPECT_TRUE(Contains(ErrorWith("rope_theta", 0), "rope_theta must be a number"));
  EXPECT_TRUE(Contains(ErrorWith("tie_word_embeddings", 1), "tie_word_embeddings must be true or false, found 1"));
  EXPECT_TRUE(Contains(ErrorWith("eos_token_id", -1), "eos_token_id"));
  EXPECT_TRUE(Contains(ErrorWith("eos_token_id", {1, "x"}), "found \"x\""));
  EXPECT_TRUE(Contains(ErrorWith("rope_scaling", 4), "rope_scaling must be an object, found 4"));
  EXPECT_TRUE(Contains(ErrorWith("rope_scaling", {{"type", "linear"}}), "rope_scaling.factor must be a number"));
  EXPECT_TRUE(Contains(ErrorWith("rope_scaling", {{"type", "linear"}, {"factor", 0.5}}), "found 0.5"));
  EXPECT_TRUE(Contains(ErrorWith("rope_scaling", {{"type", "llama3"}, {"factor", 8.0}}), "low_freq_factor"));
  EXPECT_TRUE(Contains(ErrorWith("rope_scaling", {{"rope_type", "llama3"},
                                                  {"factor", 8.0},
                                                  {"low_freq_factor", 4.0},
                                                  {"high_freq_factor", 4.0},
                                                  {"original_max_position_embeddings", 100}}),
                       "high_freq_factor must be above low_freq_factor"));
}

TEST(Config, BrokenTextIsOneSentence) {
  EXPECT_TRUE(Contains(ParseConfig("", "f").status().message(), "f: expected JSON, found an error at byte 1"));
  EXPECT_TRUE(Contains(ParseConfig("[1, 2]", "f").status().message(), "expected a JSON object, found [1,2]"));
  EXPECT_TRUE(Contains(ParseConfig(R"({"model_type": "llama", "hidden_size": 9)", "f").status().message(), "byte"));
  EXPECT_TRUE(Contains(ParseConfig(R"({"model_type": "llama", "hidden_size": 1e999})", "f").status().message(), "f: "));
  const std::string deep = R"({"model_type": )" + std::string(100000, '[') + std::string(100000, ']') + "}";
  EXPECT_TRUE(Contains(ParseConfig(deep, "f").status().message(), "nested deeper"));
  EXPECT_TRUE(Contains(LoadConfig("/nonexistent").status().message(), "/nonexistent: expected a model folder"));
  EXPECT_TRUE(Contains(LoadConfig(SourceDir() + "/README.md").status().message(), "*.safetensors), found a file"));
  EXPECT_TRUE(Contains(LoadConfig(SourceDir()).status().message(), "config.json: cannot be opened"));
}

TEST(Config, MaxPositionsGrowWithYarnAndDynamic) {
  json config = Llama();
  EXPECT_EQ(MaxPositions(*Parse(config)), 500);
  config["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 400}};
  EXPECT_EQ(MaxPositions(*Parse(config)), 1600);
  config["rope_scaling"] = {{"type", "dynamic"}, {"factor", 4.0}};
  EXPECT_EQ(MaxPositions(*Parse(config)), 2000);
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  EXPECT_EQ(MaxPositions(*Parse(config)), 500);
  config["max_sequence_length"] = 2000;
  EXPECT_EQ(MaxPositions(*Parse(config)), 2000);
}

TEST(Config, ReadsQuantisationKinds) {
  json config = Llama();
  config["quantization_config"] = json::parse(R"({"quant_method": "awq", "bits": 4, "group_size": 64,
      "zero_point": true, "version": "gemm", "modules_to_not_convert": ["lm_head"]})");
  QuantizationConfig awq = Parse(config)->quantization;
  EXPECT_EQ(awq.kind, QuantizationKind::kAwq);
  EXPECT_EQ(awq.weights.bits, 4);
  EXPECT_EQ(awq.weights.group_size, 64);
  EXPECT_FALSE(awq.weights.symmetric);
  EXPECT_TRUE(Holds(awq.ignore, "lm_head"));
  EXPECT_EQ(StoredBits(awq), 4);
  EXPECT_EQ(StoredBits({}), 16);
  EXPECT_EQ(Describe(awq), "AWQ gemm, weights 4-bit int in groups of 64 with zero points");

  config["quantization_config"] = {{"quant_method", "gptq"}, {"bits", 8}, {"group_size", -1}, {"desc_act", true}};
  QuantizationConfig gptq = Parse(config)->quantization;
  EXPECT_EQ(gptq.weights.granularity, QuantizationGranularity::kChannel);
  EXPECT_TRUE(gptq.activation_order);

  config["quantization_config"] = json::parse(R"({"quant_method": "compressed-tensors", "format": "float-quantized",
      "ignore": ["lm_head"], "config_groups": {"group_0": {"targets": ["Linear"],
        "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": true, "dynamic": false},
        "input_activations": {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": true}}}})");
  QuantizationConfig fp8 = Parse(config)->quantization;
  EXPECT_EQ(fp8.kind, QuantizationKind::kCompressedTensors);
  EXPECT_EQ(fp8.weights.type, QuantizationType::kFloat);
  EXPECT_EQ(fp8.weights.granularity, QuantizationGranularity::kChannel);
  EXPECT_TRUE(fp8.activations.dynamic);
  EXPECT_TRUE(Holds(fp8.targets, "Linear"));

  config["quantization_config"]["config_groups"]["group_0"]["weights"] = {
      {"num_bits", 4}, {"type", "int"}, {"strategy", "group"}, {"group_size", 128}, {"actorder", "group"}};
  QuantizationConfig int4 = Parse(config)->quantization;
  EXPECT_EQ(int4.weights.group_size, 128);
  EXPECT_TRUE(int4.activation_order);
  EXPECT_TRUE(Contains(
      ErrorWith("quantization_config", {{"quant_method", "bitsandbytes"}}),
      "quantization \"bitsandbytes\" is not supported; supported are compressed-tensors, awq, gptq, fp8, mxfp4"));
  EXPECT_TRUE(Contains(ErrorWith("quantization_config", {{"quant_method", "awq"}, {"bits", 99}}),
                       "quantization_config.bits must be a whole number from 2 to 8, found 99"));
  EXPECT_TRUE(Contains(ErrorWith("quantization_config", 7), "quantization_config"));
}

TEST(Config, StopTokensComeFromTheGenerationConfigFirst) {
  const ModelConfig config = *Parse(Llama());
  EXPECT_TRUE(Holds(*ParseStopTokens(R"({"eos_token_id": [128009, 128001, 128009]})", "g", config), 128001, 128009));
  EXPECT_TRUE(Holds(*ParseStopTokens(R"({"eos_token_id": 5})", "g", config), 5));
  EXPECT_TRUE(Holds(*ParseStopTokens(R"({"temperature": 0.6})", "g", config), 2, 7));
  EXPECT_TRUE(Contains(ParseStopTokens(R"({"eos_token_id": "x"})", "g", config).status().message(), "g: eos_token_id"));

  const std::filesystem::path dir = std::filesystem::path(testing::TempDir()) / "stop_tokens";
  std::filesystem::remove_all(dir);
  std::filesystem::create_directories(dir);
  EXPECT_TRUE(Holds(*StopTokens(dir.string(), config), 2, 7));
  std::ofstream(dir / "generation_config.json") << R"({"eos_token_id": [9]})";
  EXPECT_TRUE(Holds(*StopTokens(dir.string(), config), 9));
  std::ofstream(dir / "generation_config.json") << "";
  EXPECT_FALSE(StopTokens(dir.string(), config).ok());
}

TEST(Families, NamesAreFilledIn) {
  EXPECT_EQ(LayerName("model.layers.{}.self_attn.q_proj.weight", 12), "model.layers.12.self_attn.q_proj.weight");
  EXPECT_EQ(BiasName("model.layers.0.mlp.down_proj.weight"), "model.layers.0.mlp.down_proj.bias");
  for (const FamilySpec& spec : Families()) EXPECT_EQ(FindFamily(spec.model_type), &spec);
  EXPECT_EQ(FindFamily("LLAMA"), nullptr);
}

}  // namespace
}  // namespace duo
