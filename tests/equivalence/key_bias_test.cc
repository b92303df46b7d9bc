// int4 KV and large key biases, on a random Qwen2: where the biases are large, 16 levels raise the perplexity of text
// that the model itself would write by more than 3 %, and the engine says so; where they are not, neither.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/base/read_file.h"
#include "kernels/base/splitmix64.h"
#include "parallel/communicator.h"
#include "runtime/engine/engine.h"
#include "tests/golden/golden_model.h"

namespace duo {
namespace {

constexpr double kSpread =
    0.87;  // of this model's keys: sqrt(192) inputs of unit variance, norm gains of 0.87, weights of 0.072

// Sets two channels of every key bias, one that RoPE turns quickly and one that it hardly turns.
void SetKeyBias(const std::string& model_dir, float bias) {
  const std::string path = model_dir + "/model.safetensors";
  absl::StatusOr<std::string> read = ReadFile(path);
  ASSERT_TRUE(read.ok()) << read.status();
  std::string& bytes = *read;
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  const auto header = nlohmann::json::parse(bytes.substr(8, length));
  for (const auto& [name, tensor] : header.items()) {
    if (!name.ends_with("k_proj.bias")) continue;
    ASSERT_EQ(tensor["dtype"], "F32");
    char* values = bytes.data() + 8 + length + tensor["data_offsets"][0].get<size_t>();
    for (const size_t channel : {3, 60}) std::memcpy(values + 4 * channel, &bias, 4);
  }
  std::ofstream(path, std::ios::binary) << bytes;
}

struct Outcome {
  std::vector<std::vector<float>> logits;  // [tokens][vocab]
  std::vector<std::string> notes;
};

Outcome Read(const std::string& model_dir, KvFormat kv) {
  const std::unique_ptr<Device> device = Device::Cpu(2);
  const std::unique_ptr<Communicator> comm = MakeSelfCommunicator();
  EngineOptions options;
  options.model_dir = model_dir;
  options.attention = AttentionMode::kFull;
  options.kv = kv;
  options.max_session_tokens = options.kv_tokens = 400;
  options.append_logits = true;
  Outcome outcome;
  auto engine = Engine::Create(options, *device, *comm);
  EXPECT_TRUE(engine.ok()) << engine.status();
  if (!engine.ok()) return outcome;
  outcome.notes = (*engine)->notes();
  std::vector<int32_t> tokens(400);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(SplitMix64(77 + i) % 250);
  RequestEvents events;
  events.on_logits = [&](const std::vector<float>& logits) { outcome.logits.push_back(logits); };
  const auto session = (*engine)->CreateSession(400);
  EXPECT_TRUE(session.ok() && (*engine)->Append(*session, tokens, std::move(events)).ok());
  while ((*engine)->Step()) {
  }
  EXPECT_EQ(outcome.logits.size(), tokens.size());
  return outcome;
}

// Perplexity under `b` over that under `a`, of text drawn from `a`: exp of the mean Kullback-Leibler divergence.
double PerplexityRatio(const Outcome& a, const Outcome& b) {
  double sum = 0;
  for (size_t t = 0; t < a.logits.size(); ++t) {
    double za = 0, zb = 0, divergence = 0;
    for (size_t i = 0; i < a.logits[t].size(); ++i) {
      za += std::exp(double{a.logits[t][i]});
      zb += std::exp(double{b.logits[t][i]});
    }
    for (size_t i = 0; i < a.logits[t].size(); ++i) {
      const double log_a = a.logits[t][i] - std::log(za), log_b = b.logits[t][i] - std::log(zb);
      divergence += std::exp(log_a) * (log_a - log_b);
    }
    sum += divergence;
  }
  return std::exp(sum / static_cast<double>(a.logits.size()));
}

class KeyBiasTest : public testing::Test {
 protected:
  void SetUp() override {
    scratch_ = std::filesystem::path(testing::TempDir()) / ("duo_key_bias_" + std::to_string(getpid()));
    model_dir_ = LoadGolden("qwen2_tied", scratch_.string()).model_dir;
  }
  void TearDown() override { std::filesystem::remove_all(scratch_); }
  std::filesystem::path scratch_;
  std::string model_dir_;
};

TEST_F(KeyBiasTest, LargeBiasesCostInt4MoreThanThreePerCentAndAreWarnedOf) {
  for (const double ratio : {64.0, 96.0}) {
    SetKeyBias(model_dir_, static_cast<float>(ratio * kSpread));
    const Outcome plain = Read(model_dir_, KvFormat::kF32), int4 = Read(model_dir_, KvFormat::kInt4);
    EXPECT_GT(PerplexityRatio(plain, int4), 1.03) << ratio;
    ASSERT_EQ(int4.notes.size(), 1u) << ratio;
    EXPECT_NE(int4.notes[0].find("warning: this model's key biases are large (layer "), std::string::npos);
    EXPECT_TRUE(plain.notes.empty());
    const Outcome int8 = Read(model_dir_, KvFormat::kInt8);
    EXPECT_LT(PerplexityRatio(plain, int8), 1.005) << "what the warning recommends";
    EXPECT_TRUE(int8.notes.empty());
  }
}

TEST_F(KeyBiasTest, SmallBiasesCostLittleAndAreNot) {
  for (const double ratio : {0.0, 8.0}) {
    SetKeyBias(model_dir_, static_cast<float>(ratio * kSpread));
    const Outcome plain = Read(model_dir_, KvFormat::kF32), int4 = Read(model_dir_, KvFormat::kInt4);
    EXPECT_LT(PerplexityRatio(plain, int4), 1.03) << ratio;
    EXPECT_TRUE(int4.notes.empty()) << ratio;
  }
}

TEST_F(KeyBiasTest, AutoNeverChoosesInt4) {
  const std::unique_ptr<Device> device = Device::Cpu(1);
  const std::unique_ptr<Communicator> comm = MakeSelfCommunicator();
  EngineOptions options;
  options.model_dir = model_dir_;
  options.attention = AttentionMode::kFull;
  options.kv_tokens = 256;
  const auto engine = Engine::Create(options, *device, *comm);
  ASSERT_TRUE(engine.ok()) << engine.status();
  EXPECT_EQ((*engine)->kv_format(), KvFormat::kF32);
}

}  // namespace
}  // namespace duo
