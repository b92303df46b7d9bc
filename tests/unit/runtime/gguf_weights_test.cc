// Weights of GGUF files in memory: every element is the file's, whatever type its tensor has and however ranks cut it.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <string>

#include "attn_patterns/head_plan.h"
#include "gtest/gtest.h"
#include "kernels/cpu/weight_decode.h"
#include "parallel/communicator.h"
#include "runtime/gguf/block_types.h"
#include "runtime/weights/held_weights.h"
#include "runtime/weights/model_shape.h"
#include "runtime/weights/weights.h"
#include "tests/support/gguf_builder.h"

namespace duo {
namespace {

constexpr int kHidden = 256, kFfn = 768, kHeads = 4, kKvHeads = 2, kHeadDim = 64, kVocab = 48;

// Random blocks with scales of ordinary size.
std::string Blocks(GgufType type, int64_t elements, std::mt19937& random) {
  const GgufTypeInfo& info = Info(type);
  std::string bytes(elements / info.elements * info.bytes, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  std::uniform_real_distribution<float> scale(0.001f, 0.01f);
  const auto put = [&](size_t at) {
    const f16 half = ToF16(scale(random));
    std::memcpy(&bytes[at], &half.bits, 2);
  };
  for (size_t at = 0; at < bytes.size(); at += info.bytes) {
    if (type == GgufType::kMXFP4) {
      bytes[at] = static_cast<char>(120 + random() % 4);
      continue;
    }
    if (info.group == 0) {
      const float value = scale(random);
      const uint16_t bits = type == GgufType::kF16 ? ToF16(value).bits : ToBf16(value).bits;
      if (type == GgufType::kF32) std::memcpy(&bytes[at], &value, 4);
      if (type != GgufType::kF32) std::memcpy(&bytes[at], &bits, 2);
      continue;
    }
    put(type == GgufType::kQ6K ? at + 208 : at);
    if (info.has_min && type != GgufType::kQ4_0) put(at + 2);
  }
  return bytes;
}

constexpr int kExperts = 3, kExpertFfn = 96;

// types(name): of a matrix. architecture: llama; or qwen3moe, whose first layer is dense, or gpt-oss, with kExperts.
std::string WriteModel(const std::string& name, const std::function<GgufType(std::string_view)>& types,
                       const std::string& architecture = "llama") {
  const bool experts = architecture != "llama", gpt_oss = architecture == "gpt-oss";
  const auto key = [&](const char* of) { return architecture + "." + of; };
  GgufBuilder builder;
  std::mt19937 random(7);
  builder.String("general.architecture", architecture).U32(key("block_count"), 2).U32(key("context_length"), 512);
  builder.U32(key("embedding_length"), kHidden).U32(key("feed_forward_length"), kFfn);
  builder.U32(key("attention.head_count"), kHeads).U32(key("attention.head_count_kv"), kKvHeads);
  builder.F32(key("attention.layer_norm_rms_epsilon"), 1e-5f);
  if (experts) {
    builder.U32(key("expert_count"), kExperts).U32(key("expert_used_count"), 2);
    builder.U32(key("expert_feed_forward_length"), kExpertFfn).U32(key("attention.sliding_window"), gpt_oss ? 128 : 0);
  }
  const auto matrix = [&](const std::string& tensor, uint64_t rows, uint64_t cols, uint64_t of = 1) {
    const GgufType type = types(tensor);
    const std::vector<uint64_t> dims =
        of == 1 ? std::vector<uint64_t>{cols, rows} : std::vector<uint64_t>{cols, rows, of};
    builder.Tensor(tensor, dims, Info(type).number, Blocks(type, static_cast<int64_t>(of * rows * cols), random));
  };
  const auto ones = [&](const std::string& tensor, uint64_t count) {
    builder.Floats(tensor, {count}, std::vector<float>(count, 1.0f));
  };
  const auto norm = [&](const std::string& tensor) { ones(tensor, kHidden); };
  const auto moe = [&](const std::string& block) {
    builder.Floats(block + "ffn_gate_inp.weight", {kHidden, kExperts}, std::vector<float>(kHidden * kExperts, 0.5f));
    matrix(block + "ffn_gate_exps.weight", kExpertFfn, kHidden, kExperts);
    matrix(block + "ffn_up_exps.weight", kExpertFfn, kHidden, kExperts);
    matrix(block + "ffn_down_exps.weight", kHidden, kExpertFfn, kExperts);
    if (!gpt_oss) return;
    ones(block + "ffn_gate_inp.bias", kExperts);
    for (const auto& [bias, rows] :
         {std::pair("ffn_gate_exps.bias", kExpertFfn), std::pair("ffn_up_exps.bias", kExpertFfn),
          std::pair("ffn_down_exps.bias", kHidden)}) {
      std::vector<float> values(rows * kExperts);
      for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) + (bias[4] == 'u' ? 0.5f : 0.0f);
      builder.Floats(block + bias, {static_cast<uint64_t>(rows), kExperts}, values);
    }
    for (const auto& [bias, rows] :
         {std::pair("attn_q.bias", kHeads * kHeadDim), std::pair("attn_k.bias", kKvHeads * kHeadDim),
          std::pair("attn_v.bias", kKvHeads * kHeadDim), std::pair("attn_output.bias", kHidden),
          std::pair("attn_sinks.weight", kHeads)})
      ones(block + bias, rows);
  };
  matrix("token_embd.weight", kVocab, kHidden);
  matrix("output.weight", kVocab, kHidden);
  norm("output_norm.weight");
  for (int layer = 0; layer < 2; ++layer) {
    const std::string block = "blk." + std::to_string(layer) + ".";
    norm(block + "attn_norm.weight");
    norm(block + (gpt_oss ? "post_attention_norm.weight" : "ffn_norm.weight"));
    if (architecture == "qwen3moe") {
      ones(block + "attn_q_norm.weight", kHeadDim);
      ones(block + "attn_k_norm.weight", kHeadDim);
    }
    matrix(block + "attn_q.weight", kHeads * kHeadDim, kHidden);
    matrix(block + "attn_k.weight", kKvHeads * kHeadDim, kHidden);
    matrix(block + "attn_v.weight", kKvHeads * kHeadDim, kHidden);
    matrix(block + "attn_output.weight", kHidden, kHeads * kHeadDim);
    if (gpt_oss || (experts && layer > 0)) {
      moe(block);
      continue;
    }
    matrix(block + "ffn_gate.weight", kFfn, kHidden);
    matrix(block + "ffn_up.weight", kFfn, kHidden);
    matrix(block + "ffn_down.weight", kHidden, kFfn);
  }
  const std::filesystem::path dir = std::filesystem::path(testing::TempDir()) / "gguf_weights";
  std::filesystem::create_directories(dir);
  std::string path = (dir / name).string();
  std::ofstream(path, std::ios::binary) << builder.Bytes();
  return path;
}

// The values that a rank's matrix must have: slices of the stored tensors.
std::vector<float> Expected(const SafetensorsModel& files, const ModelConfig& config, const HeldWeight& held) {
  std::vector<float> values;
  for (const TensorSlice& slice : held.tensors) {
    const absl::StatusOr<StoredMatrix> stored = FindStored(files, config.quantization, slice);
    EXPECT_TRUE(stored.ok()) << stored.status();
    for (const Range& rows : slice.row_pieces) {
      for (int64_t row = rows.begin; row < rows.end; ++row) {
        for (size_t i = 0; i < slice.col_pieces.size(); ++i) {
          const Range& cols = slice.col_pieces[i];
          values.resize(values.size() + cols.size());  // zeros where another rank adds the head
          if (slice.present[i])
            stored->Values(row, cols.begin, cols.size(), values.data() + values.size() - cols.size());
        }
      }
    }
  }
  return values;
}

struct Loaded {
  ModelConfig config;
  WeightFormats formats;
};

// Loads every rank's share and compares all matrices. Returns the formats.
Loaded LoadAndCompare(const std::string& path, int world, ExpertPlacement experts = ExpertPlacement::kSplit) {
  Loaded loaded;
  const absl::StatusOr<ModelConfig> config = LoadConfig(path);
  const absl::StatusOr<SafetensorsModel> files = SafetensorsModel::Open(path);
  EXPECT_TRUE(config.ok() && files.ok()) << config.status() << files.status();
  if (!config.ok() || !files.ok()) return loaded;
  loaded.config = *config;
  const absl::StatusOr<WeightFormats> formats = ChooseFormats(*files, *config, /*on_cuda=*/false, {});
  EXPECT_TRUE(formats.ok()) << formats.status();
  if (!formats.ok()) return loaded;
  loaded.formats = *formats;
  PartitionRequest request;
  request.shape = ShapeOf(*config);
  request.heads = FullPlan(config->layers, config->kv_heads);
  request.world = world;
  request.experts = experts;
  const absl::StatusOr<Partition> partition = MakePartition(request);
  EXPECT_TRUE(partition.ok()) << partition.status();
  const std::unique_ptr<Device> device = Device::Cpu(1);
  const std::unique_ptr<Communicator> comm = MakeSelfCommunicator();
  for (int rank = 0; rank < world && partition.ok(); ++rank) {
    const RankShard shard = MakeShard(*partition, request.shape, rank, GroupUnit(config->intermediate), 1,
                                      {config->experts.count > 0 ? GroupUnit(config->experts.intermediate) : 1, 1});
    const WeightShare share = {*config, shard, *formats};
    const absl::StatusOr<ModelWeights> weights = LoadWeights(*files, share, *device, *comm, nullptr);
    EXPECT_TRUE(weights.ok()) << weights.status();
    if (!weights.ok()) return loaded;
    EXPECT_EQ(static_cast<int64_t>(weights->storage.size()), WeightBytes(share));
    for (const HeldWeight& held : HeldWeights(*config, shard)) {
      if (held.is_vector()) continue;
      const Weight& w = (held.layer < 0 ? weights->outer : weights->layers[held.layer])[held.role()];
      std::vector<float> values(w.rows * w.cols);
      for (int64_t row = 0; row < w.rows; ++row) cpu::DecodeWeightRow(w, row, 0, w.cols, values.data() + row * w.cols);
      EXPECT_EQ(values, Expected(*files, *config, held)) << "rank " << rank << " of " << world << ", layer "
                                                         << held.layer << ", role " << static_cast<int>(held.role());
    }
  }
  return loaded;
}

// All of the model, for one rank.
RankShard WholeModel(const ModelConfig& config) {
  PartitionRequest request;
  request.shape = ShapeOf(config);
  request.heads = FullPlan(config.layers, config.kv_heads);
  request.world = 1;
  return MakeShard(*MakePartition(request), request.shape, 0, 1, 1);
}

absl::StatusOr<ModelWeights> Load(const SafetensorsModel& files, const WeightShare& share) {
  static const std::unique_ptr<Device> device = Device::Cpu(1);  // outlives the weights, whose memory it gave
  const std::unique_ptr<Communicator> comm = MakeSelfCommunicator();
  return LoadWeights(files, share, *device, *comm, nullptr);
}

TEST(GgufWeights, EveryTypeIsHeldExactly) {
  for (uint32_t number = 0; number < 48; ++number) {
    const std::optional<GgufType> type = GgufTypeOf(number);
    if (!type.has_value()) continue;
    SCOPED_TRACE(Name(*type));
    const std::string path = WriteModel("one.gguf", [&](std::string_view) { return *type; });
    const Loaded loaded = LoadAndCompare(path, 1);
    const CodeFormat gate = loaded.formats.kept.at({0, WeightRole::kGateUp});
    const GgufTypeInfo& info = Info(*type);
    const bool coded = info.group > 0, iq4 = *type == GgufType::kIQ4NL || *type == GgufType::kIQ4XS;
    EXPECT_EQ(gate.group > 0, coded);
    if (coded) {
      const CodeTable table = iq4 ? CodeTable::kIq4 : *type == GgufType::kMXFP4 ? CodeTable::kE2M1 : CodeTable::kNone;
      EXPECT_EQ(gate,
                (CodeFormat{info.bits == 4 ? DType::kI4 : DType::kI8, info.group, info.two_levels ? 256 : 0, table}));
    }
    EXPECT_TRUE(loaded.formats.note.empty()) << loaded.formats.note;
    LoadAndCompare(path, 2);
    if (gate.table == CodeTable::kNone) continue;  // GPUs keep a table's codes as well
    const absl::StatusOr<SafetensorsModel> files = SafetensorsModel::Open(path);
    ASSERT_TRUE(files.ok()) << files.status();
    const absl::StatusOr<WeightFormats> on_cuda = ChooseFormats(*files, loaded.config, /*on_cuda=*/true, {});
    ASSERT_TRUE(on_cuda.ok()) << on_cuda.status();
    EXPECT_TRUE(on_cuda->note.empty()) << on_cuda->note;
    for (WeightRole role : {WeightRole::kQkv, WeightRole::kO, WeightRole::kGateUp, WeightRole::kDown}) {
      EXPECT_EQ(on_cuda->kept.at({0, role}), loaded.formats.kept.at({0, role}));
    }
  }
}

// Experts come three in a tensor; each has its own rows and biases, whatever type they have.
TEST(GgufWeights, ExpertsAreHeldExactly) {
  for (const auto& [architecture, type] :
       {std::pair("qwen3moe", GgufType::kQ8_0), std::pair("qwen3moe", GgufType::kIQ4NL),
        std::pair("gpt-oss", GgufType::kMXFP4), std::pair("gpt-oss", GgufType::kBF16)}) {
    SCOPED_TRACE(std::string(architecture) + " " + Name(type));
    const std::string path = WriteModel(
        "experts.gguf",
        [&, type = type](std::string_view name) { return name.find("_exps") != name.npos ? type : GgufType::kQ8_0; },
        architecture);
    const Loaded loaded = LoadAndCompare(path, 1);
    ASSERT_EQ(loaded.config.experts.count, kExperts);
    EXPECT_EQ(loaded.config.experts.in(0), architecture == std::string_view("gpt-oss"));
    EXPECT_EQ(loaded.formats.kept.at({1, WeightRole::kExpertDown}).table, type == GgufType::kMXFP4 ? CodeTable::kE2M1
                                                                          : type == GgufType::kIQ4NL
                                                                              ? CodeTable::kIq4
                                                                              : CodeTable::kNone);
    EXPECT_EQ(loaded.formats.kept.at({1, WeightRole::kRouter}), (CodeFormat{DType::kF32, 0, 0}));
    LoadAndCompare(path, 3);  // 32 columns of an expert each
    for (const int world : {2, 3, 5}) LoadAndCompare(path, world, ExpertPlacement::kWhole);

    // Row 5 of expert 2's up projection is that of the file's own tensor.
    const absl::StatusOr<SafetensorsModel> files = SafetensorsModel::Open(path);
    const absl::StatusOr<GgufFile> file = GgufFile::Open(path);
    ASSERT_TRUE(files.ok() && file.ok());
    const RankShard shard = WholeModel(loaded.config);
    const absl::StatusOr<ModelWeights> weights = Load(*files, {loaded.config, shard, loaded.formats});
    ASSERT_TRUE(weights.ok()) << weights.status();
    const Weight& w = weights->layers[1][WeightRole::kExpertGateUp];
    const int64_t row = (2 * 2 + 1) * kExpertFfn + 5;
    std::vector<float> held(kHidden), expected(kHidden);
    cpu::DecodeWeightRow(w, row, 0, kHidden, held.data());
    const GgufTensor& up = *file->FindTensor("blk.1.ffn_up_exps.weight");
    const uint8_t* stored = up.data + up.bytes / (kExperts * kExpertFfn) * (2 * kExpertFfn + 5);
    if (type != GgufType::kBF16) BlockValues(type, stored, 0, kHidden, expected.data());
    for (int i = 0; type == GgufType::kBF16 && i < kHidden; ++i) {
      bf16 value;
      std::memcpy(&value.bits, stored + 2 * i, 2);
      expected[i] = ToFloat(value);
    }
    EXPECT_EQ(held, expected);
    if (w.bias != nullptr) {
      EXPECT_EQ(w.bias[row], static_cast<float>(2 * kExpertFfn + 5) + 0.5f);
    }
    EXPECT_EQ(w.bias != nullptr, architecture == std::string_view("gpt-oss"));
  }
}

// Q4_K_M: q, k and v become one matrix of what holds all three; an odd number of ranks cuts what it can.
TEST(GgufWeights, MixturesComeTogetherExactly) {
  const std::string path = WriteModel("mixture.gguf", [](std::string_view name) {
    if (name == "token_embd.weight") return GgufType::kQ8_0;
    if (name == "output.weight" || name.find("attn_v") != name.npos) return GgufType::kQ6K;
    if (name.find("1.attn_k") != name.npos) return GgufType::kQ4_1;
    if (name.find("1.ffn_up") != name.npos) return GgufType::kF16;
    if (name.find("ffn_down") != name.npos) return GgufType::kQ5K;
    return GgufType::kQ4K;
  });
  for (int world : {1, 2, 3}) {
    const Loaded loaded = LoadAndCompare(path, world);
    const auto& kept = loaded.formats.kept;
    EXPECT_EQ(kept.at({0, WeightRole::kQkv}), (CodeFormat{DType::kI8, 16, 256}));
    EXPECT_EQ(kept.at({1, WeightRole::kQkv}), (CodeFormat{DType::kI8, 16, 32}));  // Q4_1 has a scale for each 32
    EXPECT_EQ(kept.at({0, WeightRole::kO}), (CodeFormat{DType::kI4, 32, 64}));    // heads are cut, and with them blocks
    EXPECT_EQ(kept.at({1, WeightRole::kGateUp}), (CodeFormat{DType::kF32, 0, 0}));
    EXPECT_EQ(kept.at({0, WeightRole::kDown}), (CodeFormat{DType::kI8, 32, 256}));
    EXPECT_EQ(kept.at({-1, WeightRole::kHead}), (CodeFormat{DType::kI8, 16, 256}));
    EXPECT_EQ(kept.at({-1, WeightRole::kEmbedding}), (CodeFormat{DType::kI8, 32, 0}));
    EXPECT_NE(loaded.formats.note.find("Q4_K are held as f32"), std::string::npos) << loaded.formats.note;
  }
}

TEST(GgufWeights, WhatIsAskedForIsMade) {
  const std::string path = WriteModel("asked.gguf", [](std::string_view) { return GgufType::kQ4K; });
  const absl::StatusOr<ModelConfig> config = LoadConfig(path);
  const absl::StatusOr<SafetensorsModel> files = SafetensorsModel::Open(path);
  ASSERT_TRUE(config.ok() && files.ok());
  const absl::StatusOr<WeightFormats> formats = ChooseFormats(*files, *config, false, {DType::kI8, std::nullopt, 32});
  ASSERT_TRUE(formats.ok()) << formats.status();
  EXPECT_EQ(formats->matrices, DType::kI8);
  EXPECT_EQ(formats->kept.count({0, WeightRole::kQkv}), 0u);
  EXPECT_EQ(formats->kept.count({-1, WeightRole::kHead}), 1u);
  EXPECT_NE(formats->note.find("as asked"), std::string::npos);

  const RankShard shard = WholeModel(*config);
  const absl::StatusOr<ModelWeights> weights = Load(*files, {*config, shard, *formats});
  ASSERT_TRUE(weights.ok()) << weights.status();
  for (const HeldWeight& held : HeldWeights(*config, shard)) {
    if (held.is_vector() || held.layer < 0) continue;
    const Weight& w = weights->layers[held.layer][held.role()];
    EXPECT_EQ(w.dtype, DType::kI8);
    EXPECT_EQ(w.group, 32);
    const std::vector<float> expected = Expected(*files, *config, held);
    std::vector<float> row(w.cols);
    for (int64_t r = 0; r < w.rows; ++r) {
      cpu::DecodeWeightRow(w, r, 0, w.cols, row.data());
      for (int64_t c = 0; c < w.cols; c += 32) {
        const float* own = expected.data() + r * w.cols + c;
        float largest = 0;
        for (int i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(own[i]));
        for (int i = 0; i < 32; ++i) ASSERT_NEAR(row[c + i], own[i], 0.502f * largest / 127) << held.layer << " " << r;
      }
    }
  }
}

// A minimum of Q4_0 is -8 times its scale, which f16 may not hold: said, not lost.
TEST(GgufWeights, AScaleThatIsTooLargeIsRefused) {
  const std::string path = WriteModel("large.gguf", [](std::string_view) { return GgufType::kQ4_0; });
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(-18, std::ios::end);
  const uint16_t large = ToF16(20000.0f).bits;
  file.write(reinterpret_cast<const char*>(&large), 2);
  file.close();
  const absl::StatusOr<ModelConfig> config = LoadConfig(path);
  const absl::StatusOr<SafetensorsModel> files = SafetensorsModel::Open(path);
  ASSERT_TRUE(config.ok() && files.ok());
  const absl::StatusOr<WeightFormats> formats = ChooseFormats(*files, *config, false, {});
  const absl::Status status = Load(*files, {*config, WholeModel(*config), *formats}).status();
  EXPECT_NE(status.message().find("model.layers.1.mlp.down_proj.weight"), absl::string_view::npos) << status;
}

TEST(CodeFormats, JoinAndFit) {
  const CodeFormat q4k{DType::kI4, 32, 256}, q6k{DType::kI8, 16, 256}, q8{DType::kI8, 32, 0}, f32{DType::kF32, 0, 0};
  EXPECT_EQ(Join(q4k, q4k), q4k);
  EXPECT_EQ(Join(q4k, q6k), q6k);
  EXPECT_EQ(Join(q8, q6k), (CodeFormat{DType::kI8, 16, 32}));
  EXPECT_EQ(Join({DType::kI4, 32, 0}, q8), q8);
  EXPECT_EQ(Join(q8, f32), f32);
  EXPECT_EQ(Join({DType::kF16, 0, 0}, {DType::kBF16, 0, 0}), f32);
  EXPECT_EQ(FitTo(q4k, 768), q4k);
  EXPECT_EQ(FitTo(q4k, 64), (CodeFormat{DType::kI4, 32, 64}));
  EXPECT_EQ(FitTo(q6k, 48), (CodeFormat{DType::kI8, 16, 16}));
  EXPECT_EQ(FitTo(q4k, 48), std::nullopt);
  EXPECT_EQ(FitTo(q8, 24), std::nullopt);
  const CodeFormat iq4{DType::kI4, 32, 256, CodeTable::kIq4}, e2m1{DType::kI4, 32, 0, CodeTable::kE2M1};
  const CodeFormat bf16{DType::kBF16, 0, 0};
  EXPECT_EQ(Join(iq4, {DType::kI4, 32, 0, CodeTable::kIq4}), (CodeFormat{DType::kI4, 32, 32, CodeTable::kIq4}));
  EXPECT_EQ(Join(iq4, q4k), (CodeFormat{DType::kI8, 32, 256}));
  EXPECT_EQ(Join(e2m1, e2m1), e2m1);
  EXPECT_EQ(Join(e2m1, bf16), bf16);
  EXPECT_EQ(Join(iq4, e2m1), f32);
  EXPECT_EQ(FitTo(iq4, 64), (CodeFormat{DType::kI4, 32, 64, CodeTable::kIq4}));
  EXPECT_EQ(FitTo(iq4, 16), (CodeFormat{DType::kI8, 16, 16}));
  EXPECT_EQ(FitTo(e2m1, 96), e2m1);
  EXPECT_EQ(FitTo(e2m1, 48), bf16);
  EXPECT_EQ(GroupUnit(1536), 256);
  EXPECT_EQ(GroupUnit(1376), 32);
}

}  // namespace
}  // namespace duo
