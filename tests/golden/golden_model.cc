#include "tests/golden/golden_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string_view>

#include "attn_patterns/pattern.h"
#include "kernels/base/check.h"
#include "kernels/base/dtype.h"
#include "kernels/base/splitmix64.h"
#include "tests/support/source_dir.h"

namespace duo {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

std::string ModelsFolder() { return SourceDir() + "/tests/golden/models"; }

uint64_t Fnv1a64(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001B3u;
  return hash;
}

uint8_t NoNan(uint8_t e4m3) { return (e4m3 & 0x7f) == 0x7f ? e4m3 ^ 0x40 : e4m3; }

const char* TypeOf(const Json& tensor, const char* stored) {
  return tensor.contains("bytes")   ? "U8"
         : tensor.contains("words") ? "I32"
         : tensor.contains("int8")  ? "I8"
         : tensor.contains("e4m3")  ? "F8_E4M3"
         : tensor.contains("scale") ? "F32"
                                    : stored;
}

// The bytes of a tensor as safetensors holds them, little-endian.
std::string TensorBytes(const Json& tensor, int64_t count, DType dtype) {
  if (tensor.contains("bytes")) {
    const uint64_t base = Fnv1a64(tensor["name"].get<std::string>());
    const int first = tensor["bytes"][0], spread = tensor["bytes"][1];
    std::string bytes(count, '\0');
    for (int64_t i = 0; i < count; ++i) {
      bytes[i] =
          static_cast<char>(first + static_cast<int>(SplitMix64(base + static_cast<uint64_t>(i)) >> 56) % spread);
    }
    return bytes;
  }
  if (tensor.contains("words") || tensor.contains("int8")) {
    const uint64_t base = Fnv1a64(tensor["name"].get<std::string>());
    std::string bytes(tensor.contains("words") ? 4 * count : count, '\0');
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(SplitMix64(base + i) >> 56);
    return bytes;
  }
  if (tensor.contains("e4m3")) {
    const uint64_t base = Fnv1a64(tensor["name"].get<std::string>());
    std::string bytes(count, '\0');
    for (int64_t i = 0; i < count; ++i)
      bytes[i] = static_cast<char>(NoNan(static_cast<uint8_t>(SplitMix64(base + static_cast<uint64_t>(i)) >> 56)));
    return bytes;
  }
  if (tensor.contains("scale")) {
    const uint64_t base = Fnv1a64(tensor["name"].get<std::string>());
    std::string bytes(4 * count, '\0');
    for (int64_t i = 0; i < count; ++i) {
      const int u = static_cast<int>(SplitMix64(base + static_cast<uint64_t>(i)) >> 56);
      const int step = tensor.value("step", 1);
      const float x = std::ldexp(static_cast<float>(192 + u % 64 / step * step) / 256, -tensor["scale"].get<int>());
      std::memcpy(&bytes[4 * i], &x, 4);
    }
    return bytes;
  }
  const Json& exponent = tensor["exponent"];
  const uint64_t base = Fnv1a64(tensor["name"].get<std::string>());
  const int64_t zero_from = tensor.value("zero_from", count);
  const float scale = exponent.is_null() ? 0 : std::ldexp(1.0f, -exponent.get<int>());
  std::string bytes(Bytes(dtype, count), '\0');
  for (int64_t i = 0; i < count; ++i) {
    const int u = static_cast<int>(SplitMix64(base + static_cast<uint64_t>(i)) >> 56);
    const float x = i >= zero_from       ? 0
                    : exponent.is_null() ? static_cast<float>(192 + u % 64) / 256
                                         : static_cast<float>(2 * u - 255) * scale;
    switch (dtype) {
      case DType::kF32:
        std::memcpy(&bytes[i * 4], &x, 4);
        break;
      case DType::kBF16: {
        const bf16 h = ToBf16(x);
        std::memcpy(&bytes[i * 2], &h, 2);
        break;
      }
      case DType::kF16: {
        const f16 h = ToF16(x);
        std::memcpy(&bytes[i * 2], &h, 2);
        break;
      }
      default:
        DUO_CHECK(false);
    }
  }
  return bytes;
}

void WriteFile(const fs::path& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  DUO_CHECK(file.good());
}

// Tensors `first`, `first + step`, .. of the list as one safetensors file.
void WriteShard(const fs::path& path, const Json& tensors, size_t first, size_t step, DType dtype) {
  const char* const stored = dtype == DType::kF32 ? "F32" : dtype == DType::kF16 ? "F16" : "BF16";
  Json header = {{"__metadata__", {{"format", "pt"}}}};
  std::string data;
  for (size_t i = first; i < tensors.size(); i += step) {
    const Json& tensor = tensors[i];
    int64_t count = 1;
    for (const Json& n : tensor["shape"]) count *= n.get<int64_t>();
    const size_t begin = data.size();
    data += TensorBytes(tensor, count, dtype);
    header[tensor["name"].get<std::string>()] = {
        {"dtype", TypeOf(tensor, stored)}, {"shape", tensor["shape"]}, {"data_offsets", {begin, data.size()}}};
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  std::string length(8, '\0');
  for (int i = 0; i < 8; ++i) length[i] = static_cast<char>(text.size() >> (8 * i));
  WriteFile(path, length + text + data);
}

void WriteModel(const Json& golden, const fs::path& dir) {
  fs::create_directories(dir);
  WriteFile(dir / "config.json", golden["config"].dump());
  const std::string stored = golden["dtype"];
  const DType dtype = stored == "float32" ? DType::kF32 : stored == "float16" ? DType::kF16 : DType::kBF16;
  const Json& tensors = golden["tensors"];
  const size_t shards = golden["shards"];
  if (shards == 1) return WriteShard(dir / "model.safetensors", tensors, 0, 1, dtype);
  Json map = Json::object();
  for (size_t shard = 0; shard < shards; ++shard) {
    const std::string name = "model-" + std::to_string(shard + 1) + "-of-" + std::to_string(shards) + ".safetensors";
    WriteShard(dir / name, tensors, shard, shards, dtype);
    for (size_t i = shard; i < tensors.size(); i += shards) map[tensors[i]["name"].get<std::string>()] = name;
  }
  WriteFile(dir / "model.safetensors.index.json", Json{{"metadata", Json::object()}, {"weight_map", map}}.dump());
}

GoldenRun ReadRun(const Json& json) {
  return {.logits = json["logits"], .greedy = json["greedy"], .leads = json["leads"], .bf16_error = json["bf16_error"]};
}

}  // namespace

std::vector<std::string> GoldenNames() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(ModelsFolder())) names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  return names;
}

Golden LoadGolden(const std::string& name, const std::string& scratch) {
  std::ifstream file(fs::path(ModelsFolder()) / (name + ".json"));
  DUO_CHECK(file.good());
  const Json json = Json::parse(file);
  Golden golden;
  golden.name = name;
  golden.prompt = json["prompt"].get<std::vector<int32_t>>();
  golden.sink = json["sink"];
  golden.recent = json["recent"];
  golden.full = ReadRun(json["full"]);
  golden.duo = ReadRun(json["duo"]);

  const fs::path dir = fs::path(scratch) / name;
  fs::create_directories(dir);
  if (json.contains("model")) {
    golden.model_dir = (fs::path(SourceDir()) / json["model"].get<std::string>()).string();
  } else {
    golden.model_dir = (dir / "model").string();
    WriteModel(json, golden.model_dir);
  }
  Pattern pattern;
  pattern.layers = static_cast<int>(json["heads"].size());
  pattern.kv_heads = static_cast<int>(json["heads"][0].size());
  pattern.sink = golden.sink;
  pattern.recent = golden.recent;
  for (const Json& layer : json["heads"])
    for (const Json& head : layer) {
      golden.retrieval.push_back(head.get<uint8_t>());
      pattern.gates.push_back(head.get<double>());
    }
  golden.pattern_dir = (dir / "pattern").string();
  DUO_CHECK(WritePattern(pattern, PatternConfigJson(pattern), golden.pattern_dir).ok());
  return golden;
}

namespace {

Json ConfigOf(const Golden& golden) {
  Json config;
  std::ifstream(fs::path(golden.model_dir) / "config.json") >> config;
  return config;
}

void SetConfig(const Golden& golden, const Json& config) {
  std::ofstream(fs::path(golden.model_dir) / "config.json") << config;
}

}  // namespace

void GivePositions(const Golden& golden, int64_t positions) {
  Json config = ConfigOf(golden);
  config["max_position_embeddings"] = positions;
  SetConfig(golden, config);
}

void ChooseAllExperts(const Golden& golden) {
  Json config = ConfigOf(golden);
  for (const char* key : {"num_experts", "num_local_experts"}) {
    if (config.contains(key)) config["num_experts_per_tok"] = config[key];
  }
  SetConfig(golden, config);
}

}  // namespace duo
