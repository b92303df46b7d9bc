#include "runtime/weights/safetensors.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include "gtest/gtest.h"
#include "tests/support/test_scale.h"
#include "tests/unit/expect.h"

namespace duo {
namespace {

namespace fs = std::filesystem;

std::string File(const std::string& header, const std::string& data, uint64_t length) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(length >> (8 * i));
  return bytes + header + data;
}
std::string File(const std::string& header, const std::string& data) { return File(header, data, header.size()); }

std::string Error(const std::string& bytes) {
  const auto tensors = ParseSafetensors(bytes, "dir/model.safetensors");
  return tensors.ok() ? "accepted" : std::string(tensors.status().message());
}

// One tensor "a" of the given description over `bytes` bytes of data.
std::string ErrorOf(const std::string& entry, size_t bytes) {
  return Error(File("{\"a\":" + entry + "}", std::string(bytes, 'x')));
}

// A folder of its own, empty.
fs::path Folder(const std::string& name) {
  fs::path dir = fs::path(testing::TempDir()) / ("safetensors_" + name);
  fs::remove_all(dir);
  fs::create_directories(dir);
  return dir;
}
void Write(const fs::path& file, const std::string& bytes) { std::ofstream(file, std::ios::binary) << bytes; }

constexpr char kGood[] =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},)"
    R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"I64","shape":[0,5],"data_offsets":[16,16]}}   )";

TEST(Safetensors, ReadsTensorsScalarsAndEmptyOnes) {
  const std::string bytes = File(kGood, "0123456789abcdef");
  const auto tensors = ParseSafetensors(bytes, "f");
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 3u);
  for (const TensorInfo& tensor : *tensors) {
    EXPECT_EQ(tensor.file, "f");
    if (tensor.name == "a") {
      EXPECT_EQ(tensor.dtype, StoredDType::kF32);
      EXPECT_TRUE(tensor.shape.empty());
      EXPECT_EQ(std::string(reinterpret_cast<const char*>(tensor.data), tensor.bytes), "0123");
    } else if (tensor.name == "b") {
      EXPECT_EQ(tensor.dtype, StoredDType::kBF16);
      EXPECT_TRUE(Holds(tensor.shape, 2, 3));
      EXPECT_EQ(std::string(reinterpret_cast<const char*>(tensor.data), tensor.bytes), "456789abcdef");
    } else {
      EXPECT_EQ(tensor.name, "e");
      EXPECT_EQ(tensor.bytes, 0u);
    }
  }
}

TEST(Safetensors, EveryDTypeOfTheFormatIsKnownByName) {
  for (const char* name : {"BOOL", "U8",   "I8",      "F8_E5M2", "F8_E4M3",     "F8_E8M0",    "I16", "U16",
                           "F16",  "BF16", "I32",     "U32",     "F32",         "I64",        "U64", "F64",
                           "C64",  "F4",   "F6_E2M3", "F6_E3M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}) {
    const auto dtype = ParseStoredDType(name);
    ASSERT_TRUE(dtype.has_value()) << name;
    EXPECT_STREQ(Name(*dtype), name);
    if (const auto kernel = ToDType(*dtype)) {
      EXPECT_EQ(Bits(*kernel), Bits(*dtype)) << name;
    }
  }
  EXPECT_FALSE(ParseStoredDType("bf16").has_value());
  EXPECT_EQ(ToDType(StoredDType::kF8E4M3), DType::kF8E4M3);
  EXPECT_EQ(ToDType(StoredDType::kF8E5M2), std::nullopt);
}

TEST(Safetensors, HostileHeadersAreOneSentenceThatNamesTheFile) {
  const std::string data16(16, 'x');
  EXPECT_TRUE(Contains(Error(""), "dir/model.safetensors: truncated"));
  EXPECT_TRUE(Contains(Error("1234567"), "found 7 bytes"));
  EXPECT_TRUE(Contains(Error(File("", "", ~uint64_t{0})), "found a length of 18446744073709551615"));
  EXPECT_TRUE(Contains(Error(File("{}", "", 100'000'001)), "at most 100000000 bytes"));
  EXPECT_TRUE(Contains(Error(File("{}", "", 3)), "truncated, expected a header of 3 bytes, found 2"));
  EXPECT_TRUE(Contains(Error(File("", "")), "expected a JSON header"));
  EXPECT_TRUE(Contains(Error(File("[]", "")), "expected a JSON object as header, found []"));
  EXPECT_TRUE(Contains(Error(File("{\"a\":{\"shape\":" + std::string(90000, '[') + std::string(90000, ']') + "}}", "")),
                       "nested deeper"));
  EXPECT_TRUE(Contains(Error(File("{\"a\":\xff}", "")), "expected a JSON header"));
  EXPECT_TRUE(
      Contains(Error(File(kGood, "0123456789abcde")), "tensor b: data_offsets end at byte 16, but the file holds 15"));
  EXPECT_TRUE(Contains(Error(File(kGood, "0123456789abcdef!")), "expected 16 bytes of data, found 17"));
  EXPECT_TRUE(Contains(Error(File("{}", "!")), "expected 0 bytes of data, found 1"));

  EXPECT_TRUE(Contains(ErrorOf(R"({"dtype":"F32","shape":[4],"data_offsets":[0,8]})", 8),
                       "tensor a: expected 16 bytes for F32 [4], found 8"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})", 8),
                       "expected data_offsets [begin, end]"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"dtype":"F32","shape":[2],"data_offsets":[-8,0]})", 8), "data_offsets"));
  EXPECT_TRUE(
      Contains(ErrorOf(R"({"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551615]})", 8), "data_offsets"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8.0]})", 8), "data_offsets"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"dtype":"F32","shape":[2],"data_offsets":[0]})", 8), "data_offsets"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"dtype":"F32","shape":[2]})", 8), "found none"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"dtype":"F31","shape":[2],"data_offsets":[0,8]})", 8), "unknown dtype \"F31\""));
  EXPECT_TRUE(Contains(ErrorOf(R"({"shape":[2],"data_offsets":[0,8]})", 8), "expected a dtype"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})", 8), "expected a shape"));
  EXPECT_TRUE(
      Contains(ErrorOf(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})", 8), "whole numbers of 0 or more"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", 0),
                       "beyond 2^61 bytes"));
  EXPECT_TRUE(
      Contains(ErrorOf(R"({"dtype":"U8","shape":[9223372036854775807,2,0],"data_offsets":[0,0]})", 0), "beyond"));
  EXPECT_TRUE(Contains(ErrorOf(R"({"dtype":"F4","shape":[3],"data_offsets":[0,2]})", 2), "no whole number of bytes"));
  EXPECT_TRUE(Contains(ErrorOf("7", 0), "tensor a: expected an object, found 7"));
}

TEST(Safetensors, OverlapsGapsAndRepeatedNamesAreRefused) {
  const auto two = [](const std::string& a, const std::string& b) {
    return "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + a +
           "},\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + b + "}}";
  };
  EXPECT_EQ(Error(File(two("[4,8]", "[0,4]"), "01234567")), "accepted");
  EXPECT_TRUE(Contains(Error(File(two("[0,4]", "[2,6]"), "012345")), "tensors a and b overlap"));
  EXPECT_TRUE(Contains(Error(File(two("[0,4]", "[0,4]"), "0123")), "overlap"));
  EXPECT_TRUE(Contains(Error(File(two("[0,4]", "[5,9]"), "012345678")),
                       "expected tensor b at byte 4 of the data, found it at 5"));
  EXPECT_TRUE(Contains(Error(File(two("[1,5]", "[5,9]"), "012345678")), "gap"));
  const std::string a = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  EXPECT_TRUE(Contains(Error(File("{" + a + "," + a + "}", "0")), "header has the key a twice"));
  EXPECT_TRUE(
      Contains(ErrorOf(R"({"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]})", 1), "key dtype twice"));
}

TEST(Safetensors, NoMutationOfAFileGivesATensorOutsideIt) {
  const std::string good = File(kGood, "0123456789abcdef");
  std::mt19937_64 random(5);
  int accepted = 0;
  for (int i = 0; i < Scaled(20000); ++i) {
    std::string bytes = good;
    for (uint64_t flips = 1 + random() % 3; flips > 0; --flips)
      bytes[random() % bytes.size()] ^= static_cast<char>(1 << random() % 8);
    if (random() % 4 == 0) bytes.resize(random() % (bytes.size() + 1));
    const auto tensors = ParseSafetensors(bytes, "f");
    if (!tensors.ok()) continue;
    ++accepted;
    const auto* begin = reinterpret_cast<const uint8_t*>(bytes.data());
    for (const TensorInfo& tensor : *tensors) {
      EXPECT_GE(tensor.data, begin);
      EXPECT_LE(tensor.data + tensor.bytes, begin + bytes.size());
    }
  }
  EXPECT_GT(accepted, 100);  // flips in the data and in the names are harmless
}

TEST(SafetensorsModel, RequireSaysWhatItExpectedAndWhatItFound) {
  const fs::path dir = Folder("require");
  Write(dir / "model.safetensors", File(kGood, "0123456789abcdef"));
  const auto model = SafetensorsModel::Open(dir.string());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(Holds(model->names(), "a", "b", "e"));
  EXPECT_EQ(model->bytes(), 16u);
  EXPECT_EQ(model->Find("c"), nullptr);
  const auto good = model->Require("b", {StoredDType::kF16, StoredDType::kBF16}, {2, 3});
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(std::memcmp(good->data, "456789abcdef", 12), 0);
  const std::string file = (dir / "model.safetensors").string();
  EXPECT_EQ(model->Require("b", {StoredDType::kF16, StoredDType::kF32}, {2, 3}).status().message(),
            file + ": tensor b: expected dtype F16 or F32, found BF16");
  EXPECT_EQ(model->Require("b", {StoredDType::kBF16}, {3, 2}).status().message(),
            file + ": tensor b: expected shape [3, 2], found [2, 3]");
  EXPECT_EQ(model->Require("c", {StoredDType::kBF16}, {2}).status().message(),
            file + ": expected the tensor c, found none");
}

TEST(SafetensorsModel, OpensShardsByTheirIndex) {
  const fs::path dir = Folder("shards");
  Write(dir / "m-1.safetensors", File(R"({"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "XX"));
  // y is also in the first shard's neighbour; the index decides which file counts.
  Write(
      dir / "m-2.safetensors",
      File(
          R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"y":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
          "xYY"));
  Write(dir / "model.safetensors.index.json",
        R"({"metadata":{"total_size":4},"weight_map":{"x":"m-1.safetensors","y":"m-2.safetensors"}})");
  const auto model = SafetensorsModel::Open(dir.string());
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(Holds(model->names(), "x", "y"));
  EXPECT_EQ(model->Find("x")->bytes, 2u);
  EXPECT_EQ(std::memcmp(model->Find("y")->data, "YY", 2), 0);
  EXPECT_EQ(model->Find("y")->file, (dir / "m-2.safetensors").string());
}

TEST(SafetensorsModel, IndexesThatPointAstrayAreRefused) {
  const fs::path dir = Folder("astray");
  const auto error = [&](const std::string& index) {
    Write(dir / "model.safetensors.index.json", index);
    return std::string(SafetensorsModel::Open(dir.string()).status().message());
  };
  Write(dir / "m.safetensors", File("{}", ""));
  EXPECT_TRUE(Contains(error(R"({"weight_map":{"x":"gone.safetensors"}})"),
                       "names the file gone.safetensors, which is not there"));
  EXPECT_TRUE(Contains(error(R"({"weight_map":{"x":"m.safetensors"}})"), "m.safetensors: expected the tensor x"));
  for (const char* path : {"../m.safetensors", "/etc/passwd", "a/b", "..", ".", "", "a\\\\b", "m\\u0000"}) {
    EXPECT_TRUE(Contains(error(std::string(R"({"weight_map":{"x":")") + path + "\"}}"),
                         "expected a plain file name for tensor x"));
  }
  EXPECT_TRUE(Contains(error(R"({"weight_map":{"x":7}})"), "found 7"));
  EXPECT_TRUE(Contains(error(R"({"weight_map":[]})"), "expected a weight_map"));
  EXPECT_TRUE(Contains(error("nonsense"), "model.safetensors.index.json: expected JSON"));
}

TEST(SafetensorsModel, FoldersWithoutWeightsSayWhatIsMissing) {
  const fs::path dir = Folder("empty");
  EXPECT_TRUE(Contains(SafetensorsModel::Open(dir.string()).status().message(),
                       "expected model.safetensors or model.safetensors.index.json, found neither"));
  Write(dir / "pytorch_model.bin", "x");
  EXPECT_TRUE(Contains(SafetensorsModel::Open(dir.string()).status().message(), "it holds pytorch_model.bin"));
  Write(dir / "model.safetensors", "");
  EXPECT_TRUE(Contains(SafetensorsModel::Open(dir.string()).status().message(), "model.safetensors: truncated"));
  fs::remove(dir / "model.safetensors");
  fs::create_directory(dir / "model.safetensors");
  EXPECT_TRUE(Contains(SafetensorsModel::Open(dir.string()).status().message(), "expected a regular file"));
}

}  // namespace
}  // namespace duo
