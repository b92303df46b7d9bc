#include "runtime/model/rope.h"

#include <cmath>
#include <fstream>
#include <string>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "runtime/weights/config.h"
#include "tests/support/source_dir.h"

namespace duo {
namespace {

nlohmann::json Golden() {
  std::ifstream in(SourceDir() + "/tests/golden/rope.json");
  return nlohmann::json::parse(in);
}

// The same config in the layout of transformers 4: rope_theta beside rope_scaling, the kind under "type".
nlohmann::json OldLayout(nlohmann::json config) {
  nlohmann::json rope = config["rope_parameters"];
  config.erase("rope_parameters");
  config["rope_theta"] = rope["rope_theta"];
  rope.erase("rope_theta");
  rope["type"] = rope["rope_type"];
  rope.erase("rope_type");
  config["rope_scaling"] = rope["type"] == "default" ? nlohmann::json() : rope;
  return config;
}

ModelConfig Parse(const nlohmann::json& json) {
  auto config = ParseConfig(json.dump(), "config.json");
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : ModelConfig();
}

TEST(Rope, FrequenciesEqualTransformersInEveryScalingAndBothLayouts) {
  const nlohmann::json golden = Golden();
  ASSERT_EQ(golden.size(), 11u);
  for (const nlohmann::json& test : golden) {
    SCOPED_TRACE(test["name"].get<std::string>());
    const ModelConfig config = Parse(test["config"]);
    EXPECT_EQ(config, Parse(OldLayout(test["config"])));
    const RopeFrequencies rope = ComputeRopeFrequencies(config, test["max_tokens"].get<int64_t>());
    ASSERT_EQ(rope.inv_freq.size(), test["inv_freq"].size());
    EXPECT_NEAR(rope.attention_factor, test["attention_factor"].get<double>(), 1e-15);
    for (size_t i = 0; i < rope.inv_freq.size(); ++i) {
      const double expected = test["inv_freq"][i].get<double>();
      // pow amplifies the rounding of its exponent by ln(theta) < 16; a few more operations follow.
      EXPECT_NEAR(rope.inv_freq[i], expected, 64 * 0x1p-53 * expected) << "pair " << i;
      // In f32 the same, and the smooth mixes cancel a few bits more.
      EXPECT_NEAR(rope.inv_freq[i], test["inv_freq_f32"][i].get<double>(), 64 * 0x1p-24 * expected) << "pair " << i;
    }
  }
}

TEST(Rope, DynamicScalingDependsOnTheReservedLengthOnlyBeyondTheModels) {
  nlohmann::json json = Golden()[0]["config"];
  json["rope_parameters"] = {{"rope_type", "dynamic"}, {"factor", 2.0}, {"rope_theta", 10000.0}};
  const ModelConfig config = Parse(json);
  const RopeFrequencies at_limit = ComputeRopeFrequencies(config, config.max_position_embeddings);
  EXPECT_EQ(ComputeRopeFrequencies(config, 1), at_limit);
  const RopeFrequencies beyond = ComputeRopeFrequencies(config, config.max_position_embeddings * 3);
  EXPECT_EQ(beyond.inv_freq[0], 1.0);  // the fastest pair never changes
  for (size_t i = 1; i < beyond.inv_freq.size(); ++i) EXPECT_LT(beyond.inv_freq[i], at_limit.inv_freq[i]);
  // NTK scaling's point: at three times the length with factor 2 the base grows by (2 * 3 - 1)^(d/(d-2)), which slows
  // the slowest pair, d - 2 of d, exactly 5 times.
  EXPECT_NEAR(at_limit.inv_freq.back() / beyond.inv_freq.back(), 5.0, 1e-12);
}

TEST(Rope, YarnOfFactorOneIsTheBase) {
  nlohmann::json json = Golden()[0]["config"];
  const RopeFrequencies base = ComputeRopeFrequencies(Parse(json), 100);
  json["rope_parameters"] = {{"rope_type", "yarn"}, {"factor", 1.0}, {"rope_theta", 10000.0}};
  const RopeFrequencies yarn = ComputeRopeFrequencies(Parse(json), 100);
  EXPECT_EQ(yarn.attention_factor, 1.0);
  for (size_t i = 0; i < base.inv_freq.size(); ++i) {
    EXPECT_NEAR(yarn.inv_freq[i], base.inv_freq[i], 4 * 0x1p-53 * base.inv_freq[i]);
  }
}

}  // namespace
}  // namespace duo
