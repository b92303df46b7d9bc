// Of compressed-tensors' config_groups: which scheme a module has, what that becomes in memory, and what is refused.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "runtime/weights/compressed_tensors_config.h"
#include "runtime/weights/config.h"
#include "runtime/weights/cut_unit.h"
#include "runtime/weights/format_shares.h"
#include "runtime/weights/mixed_formats.h"
#include "runtime/weights/supported_quantization.h"

namespace duo {
namespace {

using json = nlohmann::json;

bool Contains(const absl::Status& status, const std::string& words) {
  return std::string(status.message()).find(words) != std::string::npos;
}

json Scheme(int bits, const char* type, const char* strategy, int group = 0) {
  json scheme = {{"num_bits", bits}, {"type", type}, {"strategy", strategy}, {"symmetric", true}};
  if (group > 0) scheme["group_size"] = group;
  return scheme;
}

json Group(const char* format, const json& targets, const json& weights) {
  return {{"format", format}, {"targets", targets}, {"weights", weights}};
}

json Groups() {
  return {{"quant_method", "compressed-tensors"},
          {"format", "mixed-precision"},
          {"ignore", {"lm_head", "re:.*mlp.gate$"}},
          {"config_groups",
           {{"group_0", Group("float-quantized", {"re:.*self_attn"}, Scheme(8, "float", "channel"))},
            {"group_1", Group("pack-quantized", {"Linear"}, Scheme(4, "int", "group", 64))},
            {"group_2", Group("int-quantized", {"model.layers.1.mlp.down_proj"}, Scheme(8, "int", "channel"))}}}};
}

json Qwen(const json& quantization) {
  json config = {
      {"model_type", "qwen3"},     {"hidden_size", 256},         {"intermediate_size", 384}, {"num_hidden_layers", 2},
      {"num_attention_heads", 4},  {"num_key_value_heads", 2},   {"head_dim", 64},           {"vocab_size", 500},
      {"torch_dtype", "bfloat16"}, {"tie_word_embeddings", true}};
  config["quantization_config"] = quantization;
  return config;
}

absl::StatusOr<ModelConfig> Parse(const json& config) { return ParseConfig(config.dump(), "config.json"); }

TEST(QuantizationGroups, AModuleHasTheSchemeOfItsNearestTarget) {
  const auto parsed = Parse(Qwen(Groups()));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const QuantizationConfig& all = parsed->quantization;
  EXPECT_TRUE(all.mixed());
  EXPECT_TRUE(CheckSupported(all, "config.json").ok());
  const auto format = [&](const char* module) { return ConfigOf(all, module).format; };
  EXPECT_EQ(format("model.layers.0.self_attn.q_proj"), "float-quantized");  // an expression before a class
  EXPECT_EQ(format("model.layers.0.mlp.down_proj"), "pack-quantized");
  EXPECT_EQ(format("model.layers.1.mlp.down_proj"), "int-quantized");  // a name before a class
  EXPECT_EQ(ConfigOf(all, "model.layers.0.mlp.up_proj").weights.group_size, 64);
  for (const char* plain : {"lm_head", "model.layers.1.mlp.gate", "model.embed_tokens"}) {
    EXPECT_EQ(ConfigOf(all, plain).kind, QuantizationKind::kNone) << plain;
  }
  EXPECT_EQ(ModuleOf("model.layers.0.mlp.up_proj.weight"), "model.layers.0.mlp.up_proj");
  EXPECT_EQ(
      Describe(all),
      "compressed-tensors mixed-precision: group_0 float-quantized 8-bit float per channel of re:.*self_attn; group_1 "
      "pack-quantized 4-bit int in groups of 64 of Linear; group_2 int-quantized 8-bit int per channel of "
      "model.layers.1.mlp.down_proj");
}

TEST(QuantizationGroups, AnExpressionHasToMatchFromTheBeginning) {
  const auto match = [](const char* target, const char* module) { return ModuleTarget::Parse(target)->Of(module); };
  using Match = ModuleTarget::Match;
  EXPECT_EQ(match("re:mlp", "model.layers.0.mlp.up_proj"), Match::kNone);
  EXPECT_EQ(match("re:model.layers.[01].mlp", "model.layers.1.mlp.up_proj"), Match::kExpression);
  EXPECT_EQ(match("re:.*mlp$", "model.layers.1.mlp.up_proj"), Match::kNone);
  EXPECT_EQ(match("model.layers.1.mlp", "model.layers.1.mlp.up_proj"), Match::kNone);
  EXPECT_EQ(match("Linear", "lm_head"), Match::kClass);
  EXPECT_EQ(match("Embedding", "model.embed_tokens"), Match::kClass);
  EXPECT_EQ(match("Linear", "model.embed_tokens"), Match::kNone);
  EXPECT_FALSE(ModuleTarget::Parse("re:(").ok());
}

TEST(QuantizationGroups, OfTwoExpressionsTheFirstByItsTextCounts) {
  json groups = Groups();
  groups["config_groups"]["group_2"]["targets"] = {"re:.*q_proj"};  // '.*q' sorts before '.*s'
  EXPECT_EQ(ConfigOf(Parse(Qwen(groups))->quantization, "model.layers.0.self_attn.q_proj").format, "int-quantized");
  groups["config_groups"]["group_2"]["targets"] = {"re:model.*q_proj"};
  EXPECT_EQ(ConfigOf(Parse(Qwen(groups))->quantization, "model.layers.0.self_attn.q_proj").format, "float-quantized");
}

TEST(QuantizationGroups, MatricesAreInTheirOwnFormats) {
  const auto parsed = Parse(Qwen(Groups()));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  for (const bool on_cuda : {false, true}) {
    const auto formats = FormatsOfGroups(*parsed, on_cuda);
    ASSERT_TRUE(formats.ok()) << formats.status();
    EXPECT_TRUE(formats->note.empty()) << formats->note;
    const auto of = [&](int layer, WeightRole role) { return Name(formats->kept.at({layer, role})); };
    EXPECT_EQ(of(0, WeightRole::kQkv), "fp8");
    EXPECT_EQ(of(1, WeightRole::kO), "fp8");
    EXPECT_EQ(of(0, WeightRole::kGateUp), "int4:64");
    EXPECT_EQ(of(0, WeightRole::kDown), "int4:64");
    EXPECT_EQ(of(1, WeightRole::kDown), "int8");
    EXPECT_EQ(of(-1, WeightRole::kEmbedding), "bf16");
    const std::vector<FormatShare> shares = FormatShares(*parsed, *formats);
    ASSERT_EQ(shares.size(), 4u);
    EXPECT_EQ(shares[0].format, "int4:64");
    EXPECT_EQ(shares[0].parameters, 5 * 256 * 384);
    EXPECT_EQ(shares[1].format, "fp8");
    EXPECT_EQ(shares[1].parameters, 2 * (512 + 256) * 256);
    EXPECT_NEAR(shares[0].share + shares[1].share + shares[2].share + shares[3].share, 1, 1e-12);
  }
  EXPECT_EQ(CutUnit(parsed->quantization, {}, 352, 3) % 32, 0);  // int4's largest group that divides
}

// q, k and v are rows of one matrix: what holds all of them is taken, and what it is called is said.
TEST(QuantizationGroups, PartsOfAMatrixInSeveralFormats) {
  json groups = Groups();
  groups["config_groups"]["group_2"]["targets"] = {"re:.*mlp.gate_proj"};
  auto formats = FormatsOfGroups(*Parse(Qwen(groups)), false);
  ASSERT_TRUE(formats.ok());
  EXPECT_EQ(Name(formats->kept.at({0, WeightRole::kGateUp})), "f32");
  EXPECT_NE(formats->note.find("one matrix is made of several formats"), std::string::npos) << formats->note;
  formats = FormatsOfGroups(*Parse(Qwen(groups)), true);
  EXPECT_EQ(Name(formats->kept.at({0, WeightRole::kGateUp})), "bf16");
  // Groups that have codes in common.
  groups["config_groups"]["group_2"] = Group("pack-quantized", {"re:.*mlp.gate_proj"}, Scheme(8, "int", "group", 128));
  formats = FormatsOfGroups(*Parse(Qwen(groups)), false);
  EXPECT_EQ(Name(formats->kept.at({0, WeightRole::kGateUp})), "int8:64");
  formats = FormatsOfGroups(*Parse(Qwen(groups)), true);
  EXPECT_EQ(Name(formats->kept.at({0, WeightRole::kGateUp})), "int8:32");
}

TEST(QuantizationGroups, ExpertsOfALayerAreAlike) {
  json config = Qwen(Groups());
  config["model_type"] = "qwen3_moe";
  config.update({{"num_experts", 4}, {"num_experts_per_tok", 2}, {"moe_intermediate_size", 64}});
  ASSERT_TRUE(FormatsOfGroups(*Parse(config), true).ok());
  config["quantization_config"]["config_groups"]["group_2"]["targets"] = {"model.layers.1.mlp.experts.2.up_proj"};
  const absl::Status refused = FormatsOfGroups(*Parse(config), true).status();
  EXPECT_TRUE(Contains(refused,
                       "model.layers.1.mlp.experts.2.up_proj.weight is 8-bit int per channel and "
                       "model.layers.1.mlp.experts.0.gate_proj.weight is int4"))
      << refused;
  EXPECT_TRUE(Contains(refused, "--weights int8")) << refused;
}

TEST(QuantizationGroups, WhatIsRefusedIsNamed) {
  const auto refused = [](const json& groups) {
    const auto parsed = Parse(Qwen(groups));
    return parsed.ok() ? CheckSupported(parsed->quantization, "config.json") : parsed.status();
  };
  json groups = Groups();
  groups["config_groups"]["group_1"] = Group("nvfp4-pack-quantized", {"Linear"}, Scheme(4, "float", "group", 16));
  EXPECT_TRUE(Contains(refused(groups), "config.json: group_1: quantisation compressed-tensors nvfp4-pack-quantized"))
      << refused(groups);
  groups = Groups();
  groups["config_groups"]["group_1"]["targets"] = {"re:("};
  EXPECT_TRUE(Contains(refused(groups), "config_groups.group_1.targets: the regex")) << refused(groups);
  groups = Groups();
  groups["ignore"] = {"re:["};
  EXPECT_TRUE(Contains(refused(groups), "quantization_config.ignore: the regex")) << refused(groups);
  groups = Groups();
  groups["config_groups"]["group_1"].erase("format");
  EXPECT_TRUE(Contains(refused(groups), "group_1 has no format")) << refused(groups);
  groups = Groups();
  groups["config_groups"]["group_1"]["output_activations"] = Scheme(8, "int", "tensor");
  EXPECT_TRUE(Contains(refused(groups), "group_1.output_activations is not supported")) << refused(groups);
  groups = Groups();
  groups["transform_config"] = {{"config_groups", {{"R3", {{"apply", {{{"location", "q_attn"}}}}}}}}};
  EXPECT_TRUE(Contains(refused(groups), "config_groups.R3 rotates activations (\"q_attn\")")) << refused(groups);
  groups["transform_config"]["config_groups"]["R3"]["apply"][0]["location"] = "weight_input";
  EXPECT_TRUE(refused(groups).ok()) << refused(groups);
  for (const json& targets : {json(), json::array()}) {
    groups = Groups();
    groups["config_groups"]["group_1"]["targets"] = targets;
    EXPECT_TRUE(Contains(refused(groups), "config_groups.group_1.targets must name")) << refused(groups);
  }
  EXPECT_TRUE(Contains(refused({{"bits", 4}}), "quantization_config.quant_method is missing"));
  EXPECT_TRUE(Contains(refused({{"quant_method", "modelopt"}, {"quant_algo", "NVFP4"}}), "quant_algo \"NVFP4\""));
}

// A message is one line of a terminal, whatever a checkpoint has for names.
TEST(QuantizationGroups, TextsAreFitForATerminal) {
  const std::string strange = "\x1b[31m\n" + std::string(100000, 'x');
  json groups = Groups();
  json group = Group(strange.c_str(), {"Linear", "a\nb", "c", "d", "e"}, Scheme(4, "int", "group", 64));
  groups["config_groups"][strange] = group;
  groups["format"] = strange;
  const auto parsed = Parse(Qwen(groups));
  ASSERT_TRUE(parsed.ok());
  const std::string said = Describe(parsed->quantization);
  EXPECT_NE(said.find("of Linear a?b c and 2 more"), std::string::npos) << said;
  json refused_group = groups;
  refused_group["config_groups"][strange]["targets"] = {"re:(" + strange};
  for (const std::string& text : {said, std::string(CheckSupported(parsed->quantization, "config.json").message()),
                                  std::string(Parse(Qwen(refused_group)).status().message())}) {
    EXPECT_FALSE(text.empty());
    EXPECT_LT(text.size(), 1000u);
    EXPECT_EQ(text.find_first_of("\x1b\n"), std::string::npos) << text;
  }
}

TEST(QuantizationGroups, GroupsWithoutWeightsAndKvCachesOfTheirOwn) {
  json groups = Groups();
  groups["config_groups"]["group_3"] = {
      {"targets", {"re:.*self_attn$"}}, {"weights", nullptr}, {"input_activations", Scheme(8, "float", "tensor")}};
  groups["kv_cache_scheme"] = Scheme(8, "float", "tensor");
  const auto parsed = Parse(Qwen(groups));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_TRUE(CheckSupported(parsed->quantization, "config.json").ok());
  EXPECT_EQ(parsed->quantization.kv_cache.bits, 8);
  EXPECT_EQ(parsed->quantization.kv_cache.type, QuantizationType::kFloat);
  EXPECT_EQ(ConfigOf(parsed->quantization, "model.layers.0.self_attn.q_proj").format, "float-quantized");
  EXPECT_EQ(Describe(TakenBy(parsed->quantization, "lm_head")), "ignored (lm_head)");
  EXPECT_EQ(Describe(TakenBy(parsed->quantization, "model.embed_tokens")), "of no group's targets");
  EXPECT_EQ(
      Describe(TakenBy(parsed->quantization, "model.layers.1.mlp.down_proj")),
      "of group_2 (model.layers.1.mlp.down_proj): compressed-tensors int-quantized, weights 8-bit int per channel");
  groups["config_groups"]["group_3"]["targets"] = {"re:.*q_proj"};
  EXPECT_EQ(Describe(TakenBy(Parse(Qwen(groups))->quantization, "model.layers.0.self_attn.q_proj")),
            "of group_3 (re:.*q_proj), a group without weights");
  groups["kv_cache_scheme"]["strategy"] = "attn_head";  // no part of it is used
  EXPECT_TRUE(Parse(Qwen(groups)).ok()) << Parse(Qwen(groups)).status();
  groups["config_groups"] = json::object();
  EXPECT_TRUE(Parse(Qwen(groups)).ok());
  groups.erase("kv_cache_scheme");
  EXPECT_TRUE(Contains(Parse(Qwen(groups)).status(), "config_groups must be an object"));
  groups["config_groups"] = {"Linear"};
  EXPECT_TRUE(Contains(Parse(Qwen(groups)).status(), "found [\"Linear\"]"));
}

// Packed codes of 8 bits with a scale for each row are held in groups of columns, which ranks must not cut.
TEST(QuantizationGroups, RanksCutAtBoundsOfPackedRows) {
  json one = {{"quant_method", "compressed-tensors"},
              {"format", "pack-quantized"},
              {"config_groups", {{"group_0", Group("pack-quantized", {"Linear"}, Scheme(8, "int", "channel"))}}}};
  EXPECT_EQ(CutUnit(Parse(Qwen(one))->quantization, {}, 352, 3) % 32, 0);
}

}  // namespace
}  // namespace duo
