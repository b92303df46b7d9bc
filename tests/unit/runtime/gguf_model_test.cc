// What GGUF files hold, against PyPI's gguf (tests/golden/make_gguf_blocks.py) and against folders.
#include "runtime/weights/gguf_model.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/base/read_file.h"
#include "runtime/gguf/folder_texts.h"
#include "runtime/model/rope.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer_folder.h"
#include "runtime/weights/stored_matrix.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/source_dir.h"

namespace duo {
namespace {

namespace fs = std::filesystem;

std::string FromHex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

std::string WriteModel(const std::string& name, const GgufBuilder& builder) {
  const fs::path dir = fs::path(testing::TempDir()) / "gguf_model";
  fs::create_directories(dir);
  std::string path = (dir / name).string();
  std::ofstream(path, std::ios::binary) << builder.Bytes();
  return path;
}

TEST(GgufBlocks, HaveTheValuesOfPythonsGguf) {
  const absl::StatusOr<std::string> text = ReadFile(SourceDir() + "/tests/golden/gguf_blocks.json");
  ASSERT_TRUE(text.ok()) << text.status();
  int seen = 0;
  for (const auto& entry : nlohmann::json::parse(*text)) {
    const std::string blocks = FromHex(entry["blocks"]), raw = FromHex(entry["values"]);
    const int count = static_cast<int>(raw.size() / 4);
    std::vector<float> expected(count), values(count);
    std::memcpy(expected.data(), raw.data(), raw.size());
    const std::string path = WriteModel(
        "blocks.gguf", GgufBuilder()
                           .String("general.architecture", "qwen2")
                           .U32("qwen2.attention.head_count", 2)
                           .Tensor("output.weight", {static_cast<uint64_t>(count), 1}, entry["number"], blocks));
    const absl::StatusOr<SafetensorsModel> files = SafetensorsModel::Open(path);
    ASSERT_TRUE(files.ok()) << files.status();
    QuantizationConfig quantization;
    quantization.kind = QuantizationKind::kGguf;
    const absl::StatusOr<StoredMatrix> matrix = StoredMatrix::Find(*files, quantization, "lm_head.weight", 1, count);
    ASSERT_TRUE(matrix.ok()) << matrix.status();
    matrix->Values(0, 0, count, values.data());
    EXPECT_EQ(values, expected) << entry["type"];
    // Any piece, as ranks take them.
    for (const auto& [first, size] : {std::pair(1, 1), std::pair(31, 34), std::pair(100, 156)}) {
      matrix->Values(0, first, size, values.data());
      EXPECT_TRUE(std::equal(values.begin(), values.begin() + size, expected.begin() + first)) << entry["type"];
    }
    ++seen;
  }
  EXPECT_EQ(seen, 14);
}

// A llama of 2 layers, 4 query and 2 KV heads of 8; every weight is its own number.
struct Tiny {
  GgufBuilder builder;
  explicit Tiny(const std::string& architecture = "llama", const char* skip = "") {
    const auto key = [&](const char* name) { return architecture + "." + name; };
    builder.String("general.architecture", architecture).String("general.name", "Tiny 1B");
    builder.U32(key("block_count"), 1).U32(key("context_length"), 4096).U32(key("embedding_length"), 32);
    builder.U32(key("feed_forward_length"), 64)
        .U32(key("attention.head_count"), 4)
        .U32(key("attention.head_count_kv"), 2);
    builder.F32(key("attention.layer_norm_rms_epsilon"), 1e-5f).F32(key("rope.freq_base"), 500000);
    builder.U32("tokenizer.ggml.eos_token_id", 2)
        .U32("tokenizer.ggml.eot_token_id", 3)
        .U32("tokenizer.ggml.bos_token_id", 1);
    const auto add = [&](const char* name, const std::vector<uint64_t>& dims) {
      if (std::string_view(name) == skip) return;
      uint64_t count = 1;
      for (uint64_t dim : dims) count *= dim;
      std::vector<float> values(count);
      for (uint64_t i = 0; i < count; ++i) values[i] = static_cast<float>(i);
      builder.Floats(name, dims, values);
    };
    add("token_embd.weight", {32, 40});
    add("output_norm.weight", {32});
    add("blk.0.attn_norm.weight", {32});
    add("blk.0.ffn_norm.weight", {32});
    add("blk.0.attn_q.weight", {32, 32});
    add("blk.0.attn_q.bias", {32});
    add("blk.0.attn_k.weight", {32, 16});
    add("blk.0.attn_k.bias", {16});
    add("blk.0.attn_v.weight", {32, 16});
    add("blk.0.attn_v.bias", {16});
    add("blk.0.attn_output.weight", {32, 32});
    add("blk.0.ffn_gate.weight", {32, 64});
    add("blk.0.ffn_up.weight", {32, 64});
    add("blk.0.ffn_down.weight", {64, 32});
  }
};

TEST(GgufModel, KeysBecomeAConfig) {
  const absl::StatusOr<ModelConfig> config = LoadConfig(WriteModel("tiny.gguf", Tiny().builder));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->family, Family::kLlama);
  EXPECT_EQ(config->name_or_path, "Tiny 1B");
  EXPECT_EQ(config->hidden, 32);
  EXPECT_EQ(config->intermediate, 64);
  EXPECT_EQ(config->layers, 1);
  EXPECT_EQ(config->heads, 4);
  EXPECT_EQ(config->kv_heads, 2);
  EXPECT_EQ(config->head_dim, 8);
  EXPECT_EQ(config->vocab, 40);
  EXPECT_EQ(config->rms_norm_eps, 1e-5);  // the decimal, not the f32 next to it
  EXPECT_EQ(config->rope.theta, 500000);
  EXPECT_EQ(config->max_position_embeddings, 4096);
  EXPECT_TRUE(config->tie_embeddings);
  EXPECT_TRUE(config->attention_bias);
  EXPECT_FALSE(config->o_bias);
  EXPECT_FALSE(config->mlp_bias);
  EXPECT_EQ(config->bos_ids, std::vector<int>{1});
  EXPECT_EQ(config->eos_ids, (std::vector<int>{2, 3}));
  const absl::StatusOr<std::vector<int>> stops = StopTokens("tiny.gguf", *config);
  ASSERT_TRUE(stops.ok());
  EXPECT_EQ(*stops, (std::vector<int>{2, 3}));
}

// Row r of q as stored is pair by pair; as read it is half by half, for llama alone.
TEST(GgufModel, RowsOfQAndKComeInTheOrderOfAFolder) {
  for (const char* architecture : {"llama", "qwen2"}) {
    const bool paired = std::string_view(architecture) == "llama";
    const std::string path = WriteModel("rows.gguf", Tiny(architecture).builder);
    const absl::StatusOr<SafetensorsModel> files = SafetensorsModel::Open(path);
    ASSERT_TRUE(files.ok()) << files.status();
    for (const auto& [name, rows] : {std::pair("q", 32), std::pair("k", 16), std::pair("v", 16)}) {
      const std::string stem = std::string("model.layers.0.self_attn.") + name + "_proj.";
      const absl::StatusOr<StoredMatrix> matrix = StoredMatrix::Find(*files, {}, stem + "weight", rows, 32);
      ASSERT_TRUE(matrix.ok()) << matrix.status();
      std::vector<float> bias(rows);
      ReadFloats(*files->Find(stem + "bias"), 0, rows, bias.data());
      for (int row = 0; row < rows; ++row) {
        const int head = row / 8, i = row % 8;  // stored: 0, 4, 1, 5, 2, 6, 3, 7 of each head
        const int stored = paired && *name != 'v' ? head * 8 + 2 * (i % 4) + i / 4 : row;
        float value = 0;
        matrix->Values(row, 3, 1, &value);
        EXPECT_EQ(value, static_cast<float>(stored * 32 + 3)) << architecture << " " << name << " " << row;
        EXPECT_EQ(bias[row], static_cast<float>(stored));
      }
    }
  }
}

TEST(GgufModel, RopeDivisorsDivideFrequencies) {
  Tiny tiny;
  tiny.builder.Floats("rope_freqs.weight", {4}, {1, 2, 4, 8});
  const absl::StatusOr<ModelConfig> config = LoadConfig(WriteModel("divisors.gguf", tiny.builder));
  ASSERT_TRUE(config.ok()) << config.status();
  ModelConfig plain = *config;
  plain.rope.divisors.clear();
  const RopeFrequencies with = ComputeRopeFrequencies(*config, 100), without = ComputeRopeFrequencies(plain, 100);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(with.inv_freq[i], without.inv_freq[i] / (1 << i));
  Tiny wrong;
  wrong.builder.Floats("rope_freqs.weight", {4}, {1, 2, 0, 8});
  EXPECT_FALSE(LoadConfig(WriteModel("divisors.gguf", wrong.builder)).ok());
}

TEST(GgufModel, YarnIsRead) {
  Tiny tiny;
  tiny.builder.String("llama.rope.scaling.type", "yarn").F32("llama.rope.scaling.factor", 4);
  tiny.builder.U32("llama.rope.scaling.original_context_length", 1024);
  const absl::StatusOr<ModelConfig> config = LoadConfig(WriteModel("yarn.gguf", tiny.builder));
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->rope.scaling, RopeScaling::kYarn);
  EXPECT_EQ(config->rope.factor, 4);
  EXPECT_EQ(config->rope.original_max_position_embeddings, 1024);
  EXPECT_EQ(config->rope.attention_factor, 0);  // YaRN's own
}

TEST(GgufModel, RefusalsNameTheKeyOrTensor) {
  const auto refused = [](const Tiny& tiny, const char* why) {
    const std::string found(LoadConfig(WriteModel("refused.gguf", tiny.builder)).status().message());
    EXPECT_NE(found.find(why), std::string::npos) << found;
  };
  Tiny moe("qwen3"), scaled, unchosen, rotary, scaling, window, alien;
  moe.builder.U32("qwen3.expert_count", 8);
  refused(moe, "qwen3.expert_count");
  scaled.builder.U32("llama.expert_count", 8).U32("llama.expert_used_count", 2).F32("llama.expert_weights_scale", 2.5f);
  refused(scaled, "llama.expert_weights_scale");
  unchosen.builder.U32("llama.expert_count", 8).U32("llama.expert_used_count", 9);
  refused(unchosen, "llama.expert_used_count");
  refused(Tiny("qwen3moe"), "qwen3moe.expert_count");
  rotary.builder.U32("llama.rope.dimension_count", 4);
  refused(rotary, "llama.rope.dimension_count");
  scaling.builder.String("llama.rope.scaling.type", "longrope");
  refused(scaling, "longrope");
  alien.builder.Floats("blk.0.attn_sinks.weight", {4}, {0, 0, 0, 0});
  refused(alien, "tensor blk.0.attn_sinks.weight");
  refused(Tiny("gemma3"),
          "general.architecture \"gemma3\" is not supported; supported are llama, qwen2, qwen3, qwen2moe, qwen3moe, "
          "gpt-oss");
  refused(Tiny("llama", "token_embd.weight"), "token_embd.weight");
}

// A tensor of experts has as many as the key says, and no file has so many that their list alone fills the memory.
TEST(GgufModel, ExpertsAreAsManyAsTheKeySays) {
  for (const auto& [key, dims, good] :
       {std::tuple(4u, std::vector<uint64_t>{32, 2, 4}, true), std::tuple(3u, std::vector<uint64_t>{32, 2, 4}, false),
        std::tuple(4u, std::vector<uint64_t>{32}, false), std::tuple(0u, std::vector<uint64_t>{32, 2, 4}, false),
        std::tuple(2000u, std::vector<uint64_t>{1, 1, 2000}, false)}) {
    Tiny tiny("gpt-oss");
    uint64_t count = 1;
    for (uint64_t dim : dims) count *= dim;
    tiny.builder.U32("gpt-oss.expert_count", key);
    tiny.builder.Floats("blk.0.ffn_up_exps.weight", dims, std::vector<float>(count));
    const auto files = SafetensorsModel::Open(WriteModel("experts.gguf", tiny.builder));
    EXPECT_EQ(files.ok(), good) << key << " " << files.status();
    if (good) {
      EXPECT_NE(files->Find("model.layers.0.mlp.experts.gate_up_proj.3.1"), nullptr);
    } else if (dims.size() == 3 && key != 2000) {
      EXPECT_NE(files.status().message().find("blk.0.ffn_up_exps.weight"), absl::string_view::npos) << files.status();
    }
  }
}

TEST(GgufModel, ByteLevelTokenizerIsThatOfTheKeys) {
  Tiny tiny;
  tiny.builder.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", "smollm");
  tiny.builder.Strings("tokenizer.ggml.tokens",
                       {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<u>", "h", "i", "hi", "1", "\xC4\xA0"});
  tiny.builder.Array<int32_t>("tokenizer.ggml.token_type", 5, {3, 3, 3, 4, 1, 1, 1, 1, 1});
  tiny.builder.Strings("tokenizer.ggml.merges", {"h i"});
  tiny.builder.String("tokenizer.chat_template", "{{ bos_token }}{{ messages[0]['content'] }}");
  const std::string path = WriteModel("bytes.gguf", tiny.builder);
  const absl::StatusOr<Tokenizer> tokenizer = LoadTokenizerOf(path, 40);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ(*tokenizer->Encode("hi 11<u><|im_end|>", {.parse_special = true}),
            (std::vector<int32_t>{6, 8, 7, 7, 3, 2}));
  EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{6, 8, 7, 2}), "hi 1");
  const absl::StatusOr<ChatTemplate> chat = ChatTemplateFor(path);
  ASSERT_TRUE(chat.ok() && chat->status().ok());
  const std::vector<Message> messages = {{"user", "hi"}};
  const auto rendered = chat->Render(messages, false);
  ASSERT_TRUE(rendered.ok()) << rendered.status();
  std::string text;
  for (const TextSegment& segment : *rendered) text += segment.text;
  EXPECT_EQ(text, "<|im_start|>hi");
  EXPECT_FALSE(LoadTokenizerOf(path, 8).ok());  // more tokens than rows
}

TEST(GgufModel, SentencePieceTokenizerMergesByScore) {
  Tiny tiny;
  tiny.builder.String("tokenizer.ggml.model", "llama");
  tiny.builder.Strings("tokenizer.ggml.tokens",
                       {"<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "\u2581", "a", "b", "ab", "\u2581a", "bb"});
  tiny.builder.Array<float>("tokenizer.ggml.scores", 6, {0, 0, 0, 0, 0, -1, -2, -3, -5, -4, -6});
  tiny.builder.Array<int32_t>("tokenizer.ggml.token_type", 5, {2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1});
  tiny.builder.U32("tokenizer.ggml.unknown_token_id", 0);
  const absl::StatusOr<Tokenizer> tokenizer = LoadTokenizerOf(WriteModel("pieces.gguf", tiny.builder), 40);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  // BOS; a space before the first word; "_a" has a better score than "ab"; what is no token goes by bytes.
  EXPECT_EQ(*tokenizer->Encode("abb"), (std::vector<int32_t>{1, 9, 10}));
  EXPECT_EQ(*tokenizer->Encode("b\xC3\xA9"), (std::vector<int32_t>{1, 5, 7, 3, 4}));
  EXPECT_EQ(tokenizer->Decode(std::vector<int32_t>{1, 9, 10}), "abb");
}

TEST(GgufModel, AnUnknownSplitIsRefusedByName) {
  Tiny tiny;
  tiny.builder.String("tokenizer.ggml.model", "gpt2").String("tokenizer.ggml.pre", "viking");
  tiny.builder.Strings("tokenizer.ggml.tokens", {"a"}).Strings("tokenizer.ggml.merges", {"a a"});
  const std::string found(LoadTokenizerOf(WriteModel("split.gguf", tiny.builder), 40).status().message());
  EXPECT_NE(found.find("tokenizer.ggml.pre \"viking\" is not supported"), std::string::npos) << found;
}

}  // namespace
}  // namespace duo
