// GGUF's bytes: what is read, and what is refused.
#include "runtime/gguf/gguf_file.h"

#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/test_scale.h"

namespace duo {
namespace {

namespace fs = std::filesystem;

std::string ErrorOf(const std::string& bytes) {
  const absl::StatusOr<GgufContents> contents = ParseGguf(bytes, "m.gguf");
  return contents.ok() ? "accepted" : std::string(contents.status().message());
}

fs::path Folder(const std::string& name) {
  fs::path dir = fs::path(testing::TempDir()) / ("gguf_" + name);
  fs::remove_all(dir);
  fs::create_directories(dir);
  return dir;
}
void Write(const fs::path& file, const std::string& bytes) { std::ofstream(file, std::ios::binary) << bytes; }

std::vector<float> Counted(int count) {
  std::vector<float> values(count);
  for (int i = 0; i < count; ++i) values[i] = static_cast<float>(i);
  return values;
}

TEST(Gguf, ReadsValuesAndTensors) {
  GgufBuilder builder;
  builder.U32("n", 7).F32("x", 0.5f).Bool("b", true).String("s", "text").Strings("l", {"a", "", "bc"});
  builder.Array<int32_t>("i", 5, {3, -1})
      .Value("big", 10, GgufBuilder::Raw<uint64_t>(1) + "")
      .Value("d", 12, GgufBuilder::Raw(2.5));
  builder.Floats("t", {3, 2}, Counted(6)).Tensor("q", {32, 1}, 8, std::string(34, '\x01'));
  for (uint32_t version : {2u, 3u}) {
    const std::string bytes = builder.Bytes(version);
    const absl::StatusOr<GgufContents> contents = ParseGguf(bytes, "m.gguf");
    ASSERT_TRUE(contents.ok()) << contents.status();
    const GgufValues& values = contents->values;
    EXPECT_EQ(values.at("n").Int(), 7);
    EXPECT_EQ(values.at("n").Number(), 7.0);
    EXPECT_EQ(values.at("x").Number(), 0.5);
    EXPECT_EQ(values.at("x").Int(), std::nullopt);
    EXPECT_EQ(values.at("b").Bool(), true);
    EXPECT_EQ(values.at("s").String(), "text");
    EXPECT_EQ(values.at("s").Int(), std::nullopt);
    EXPECT_EQ(*values.at("l").Strings(), (std::vector<std::string_view>{"a", "", "bc"}));
    EXPECT_EQ(*values.at("i").Numbers(), (std::vector<double>{3, -1}));
    EXPECT_EQ(values.at("big").Int(), 1);
    EXPECT_EQ(values.at("d").Number(), 2.5);
    ASSERT_EQ(contents->tensors.size(), 2u);
    EXPECT_EQ(contents->tensors[0].shape, (std::vector<int64_t>{2, 3}));  // outermost first
    EXPECT_EQ(contents->tensors[0].bytes, 24u);
    EXPECT_EQ(contents->tensors[1].type, GgufType::kQ8_0);
    EXPECT_EQ(contents->tensors[1].bytes, 34u);
    EXPECT_EQ(contents->tensors[1].data[0], 1);
  }
}

TEST(Gguf, RefusesWhatIsNoFileOfItsKind) {
  EXPECT_NE(ErrorOf(std::string(64, 'x')).find("expected a GGUF file"), std::string::npos);
  EXPECT_NE(ErrorOf(GgufBuilder().Bytes(1)).find("version 1 is not supported"), std::string::npos);
  EXPECT_NE(ErrorOf(GgufBuilder().Bytes(0)).find("version 0 is not supported"), std::string::npos);
  EXPECT_NE(ErrorOf(GgufBuilder().Bytes(0x03000000)).find("big-endian"), std::string::npos);
  EXPECT_NE(ErrorOf("GGUF" + GgufBuilder::Raw(3u) + GgufBuilder::Raw<uint64_t>(~0ull) + GgufBuilder::Raw<uint64_t>(0))
                .find("tensors"),
            std::string::npos);
}

TEST(Gguf, RefusesTypesByName) {
  const std::string q2k = ErrorOf(GgufBuilder().Tensor("blk.0.ffn_up.weight", {256}, 10, std::string(84, 'x')).Bytes());
  EXPECT_NE(q2k.find("tensor blk.0.ffn_up.weight: its type Q2_K is not supported; supported are F32"),
            std::string::npos)
      << q2k;
  EXPECT_NE(ErrorOf(GgufBuilder().Tensor("t", {256}, 77, "x").Bytes()).find("type 77"), std::string::npos);
}

TEST(Gguf, RefusesTensorsThatDoNotFit) {
  const auto refused = [](const GgufBuilder& builder, const char* why) {
    EXPECT_NE(ErrorOf(builder.Bytes()).find(why), std::string::npos) << ErrorOf(builder.Bytes());
  };
  const std::string data(64, 'x');
  refused(GgufBuilder().TensorAt("t", {16}, 0, 32, data), "truncated");
  refused(GgufBuilder().TensorAt("t", {16}, 0, ~31ull, data), "truncated");
  refused(GgufBuilder().TensorAt("t", {16}, 0, 4, data), "multiples of 32");
  refused(GgufBuilder().TensorAt("a", {16}, 0, 0, data).TensorAt("b", {4}, 0, 32, ""), "overlaps");
  refused(GgufBuilder().Tensor("t", {16}, 0, data).Tensor("t", {16}, 0, data), "twice");
  refused(GgufBuilder().Tensor("t", {33}, 8, data), "no whole number of Q8_0 blocks");
  refused(GgufBuilder().Tensor("t", {0}, 0, data), "dimensions from 1");
  refused(GgufBuilder().Tensor("t", {1ull << 33, 1ull << 33, 1ull << 33}, 0, data), "2^48");
  refused(GgufBuilder().Tensor("t", {1, 1, 1, 1, 1}, 0, data), "at most 4 dimensions");
  refused(GgufBuilder().U32("general.alignment", 24).Tensor("t", {16}, 0, data), "power of two");
  refused(GgufBuilder().U32("k", 1).U32("k", 1), "key k twice");
}

TEST(Gguf, RefusesArraysThatLie) {
  const auto array = [](uint32_t element, uint64_t count) {
    return GgufBuilder::Raw(element) + GgufBuilder::Raw(count);
  };
  for (uint64_t count : {uint64_t{1} << 40, ~uint64_t{0}, uint64_t{1} << 62}) {
    for (uint32_t element : {0u, 6u, 8u, 9u, 12u})
      EXPECT_NE(ErrorOf(GgufBuilder().Value("a", 9, array(element, count)).Bytes()).find("truncated"),
                std::string::npos);
  }
  std::string nested;
  for (int i = 0; i < 100; ++i) nested += array(9, 1);
  EXPECT_NE(ErrorOf(GgufBuilder().Value("a", 9, nested + array(0, 0)).Bytes()).find("nested"), std::string::npos);
  EXPECT_NE(ErrorOf(GgufBuilder().Value("a", 13, "xxxx").Bytes()).find("unknown value type 13"), std::string::npos);
}

// Every beginning of a good file, and every byte of its head changed: an error or a file that lies inside its bytes.
TEST(Gguf, SurvivesCutAndChangedFiles) {
  const std::string good = GgufBuilder()
                               .String("general.architecture", "llama")
                               .Strings("tokens", {"a", "b"})
                               .Floats("t", {4, 2}, Counted(8))
                               .Tensor("q", {64}, 2, std::string(36, 'x'))
                               .Bytes();
  const auto check = [](const std::string& bytes) {
    const absl::StatusOr<GgufContents> contents = ParseGguf(bytes, "m");
    if (!contents.ok()) return;
    for (const GgufTensor& tensor : contents->tensors) {
      const auto* begin = reinterpret_cast<const uint8_t*>(bytes.data());
      EXPECT_TRUE(tensor.data >= begin && tensor.data + tensor.bytes <= begin + bytes.size());
    }
    for (const auto& [key, value] : contents->values) {
      value.Strings();
      value.Numbers();
    }
  };
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_NE(ErrorOf(good.substr(0, size)), "accepted") << size;
  }
  std::mt19937 random(1);
  for (int i = 0; i < Scaled(20000); ++i) {
    std::string bytes = good;
    bytes[random() % 200] = static_cast<char>(random());
    check(bytes);
  }
}

TEST(Gguf, OpensAllFilesOfAModelThatComesInSeveral) {
  const fs::path dir = Folder("shards");
  const auto part = [](int number, const char* tensor) {
    GgufBuilder builder;
    builder.Value("split.count", 2, GgufBuilder::Raw<uint16_t>(2));
    if (number == 1) builder.String("general.name", "m");
    return builder.Floats(tensor, {4}, Counted(4)).Bytes();
  };
  Write(dir / "m-00001-of-00002.gguf", part(1, "a"));
  const std::string missing(GgufFile::Open((dir / "m-00001-of-00002.gguf").string()).status().message());
  EXPECT_NE(missing.find("m-00002-of-00002.gguf beside it, found none"), std::string::npos) << missing;
  Write(dir / "m-00002-of-00002.gguf", part(2, "b"));
  for (const char* name : {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"}) {
    const absl::StatusOr<GgufFile> file = GgufFile::Open((dir / name).string());
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_NE(file->FindTensor("a"), nullptr);
    EXPECT_NE(file->FindTensor("b"), nullptr);
    EXPECT_EQ(file->Find("general.name")->String(), "m");
  }
  Write(dir / "m-00002-of-00002.gguf", part(2, "a"));
  EXPECT_FALSE(GgufFile::Open((dir / "m-00001-of-00002.gguf").string()).ok());
  Write(dir / "alone.gguf", part(1, "a"));
  EXPECT_FALSE(GgufFile::Open((dir / "alone.gguf").string()).ok());
}

TEST(Gguf, ModelsAreKnownByTheirFilesWithoutTheQuantisation) {
  EXPECT_EQ(GgufModelName("/m/SmolLM2-135M-Instruct.Q4_1.gguf"), "SmolLM2-135M-Instruct");
  EXPECT_EQ(GgufModelName("Qwen3-8B-Q4_K_M.gguf"), "Qwen3-8B");
  EXPECT_EQ(GgufModelName("Qwen3-8B-IQ4_XS-00001-of-00003.gguf"), "Qwen3-8B");
  EXPECT_EQ(GgufModelName("Llama-3-8B-bf16.gguf"), "Llama-3-8B");
  EXPECT_EQ(GgufModelName("Llama-3.1-8B.gguf"), "Llama-3.1-8B");
  EXPECT_EQ(GgufModelName("Q8_0.gguf"), "Q8_0");
}

TEST(Gguf, FieldsSayWhichKeyIsWrong) {
  const fs::path dir = Folder("fields");
  Write(dir / "m.gguf", GgufBuilder().String("a", "x").U32("n", 300).Bytes());
  const absl::StatusOr<GgufFile> file = GgufFile::Open((dir / "m.gguf").string());
  ASSERT_TRUE(file.ok()) << file.status();
  const auto error = [&](auto read) {
    GgufFields fields(*file);
    read(fields);
    return std::string(fields.status().message());
  };
  EXPECT_EQ(error([](GgufFields& f) { EXPECT_EQ(f.Int("n", 0, 1000), 300); }), "");
  EXPECT_NE(
      error([](GgufFields& f) { f.Int("n", 0, 100); }).find("n: expected a whole number from 0 to 100, found 300"),
      std::string::npos);
  EXPECT_NE(error([](GgufFields& f) { f.Int("a", 0, 100); }).find("a: expected a whole number"), std::string::npos);
  EXPECT_NE(error([](GgufFields& f) { f.Int("none", 0, 100); }).find("has no key none"), std::string::npos);
  EXPECT_EQ(error([](GgufFields& f) { EXPECT_EQ(f.Int("none", 0, 100, 5), 5); }), "");
}

}  // namespace
}  // namespace duo
