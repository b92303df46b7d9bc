// Keys without their mean: no answer changes, however a session was read, and a coded cache loses less; what a saved
// session says of it; and who is refused.
#include "attn_patterns/key_means.h"

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/base/read_file.h"
#include "runtime/identify/identify_model.h"
#include "runtime/saved/session_store.h"
#include "tests/equivalence/engine_fixture.h"

namespace duo {
namespace {

namespace fs = std::filesystem;

// As large as keys are, so that whatever misses them is seen.
KeyMeans MadeUpMeans(int layers, int kv_heads, int head_dim, uint64_t seed) {
  KeyMeans means;
  means.layers = layers;
  means.kv_heads = kv_heads;
  means.head_dim = head_dim;
  means.tokens = 1;
  for (int i = 0; i < layers * kv_heads * head_dim; ++i) {
    means.values.push_back(static_cast<double>(SplitMix64(seed * 7919 + i) % 2001) / 1000 - 1);
  }
  return means;
}

class KeyMeansTest : public EngineOnDevices {
 protected:
  KvFormat kv() const { return cuda() ? KvFormat::kBF16 : KvFormat::kF32; }
  void SetUp() override {
    EngineOnDevices::SetUp();
    if (IsSkipped()) return;
    for (const uint64_t seed : {1, 2}) {
      ASSERT_TRUE(WriteKeyMeans(MadeUpMeans(2, 2, 64, seed), Dir(seed)).ok());
    }
  }
  std::string Dir(uint64_t seed) const { return scratch_.string() + "/means" + std::to_string(seed); }
  EngineOptions With(EngineOptions options, uint64_t seed) const {
    options.key_means = true;
    options.key_means_dir = Dir(seed);
    return options;
  }
  EngineOptions Plain(AttentionMode attention, int chunk = 0) const {
    EngineOptions options = Options();
    options.attention = attention;
    if (attention == AttentionMode::kFull) {
      options.pattern_dir.clear();
      options.threshold.reset();
    }
    options.kv = kv();
    options.chunk = chunk;
    return options;
  }
  // Answers behind a long text, on a fork that went its own way, and after a rewind.
  std::vector<Reply> Answers(const EngineOptions& options) const {
    Bench bench = Open(options);
    if (bench.engine == nullptr) return {};
    const SessionId session = bench.Open(500);
    bench.Append(session, Text(300, 1));
    std::vector<Reply> replies = {bench.AskNow(session, Text(5, 2))};
    const auto fork = bench.engine->Fork(session, 500);
    EXPECT_TRUE(fork.ok());
    bench.Append(*fork, Text(100, 3));
    bench.Append(session, Text(20, 4));
    replies.push_back(bench.AskNow(*fork, Text(5, 2)));
    replies.push_back(bench.AskNow(session, Text(1, 2)));
    EXPECT_TRUE(bench.engine->Rewind(session, 250).ok());
    replies.push_back(bench.AskNow(session, Text(1, 5)));
    return replies;
  }
};
INSTANTIATE_ON_DEVICES(KeyMeansTest);

TEST_P(KeyMeansTest, NoAnswerChanges) {
  for (const AttentionMode attention : {AttentionMode::kDuo, AttentionMode::kFull}) {
    const std::vector<Reply> plain = Answers(Plain(attention));
    ASSERT_EQ(plain.size(), 4u);
    for (const int chunk : {0, 37}) {
      SCOPED_TRACE(std::string(Name(attention)) + " " + std::to_string(chunk));
      const std::vector<Reply> shifted = Answers(With(Plain(attention, chunk), 1));
      ASSERT_EQ(shifted.size(), 4u);
      const GoldenRun& run = attention == AttentionMode::kDuo ? golden_.duo : golden_.full;
      for (size_t i = 0; i < plain.size(); ++i) ExpectSame(plain[i], shifted[i], Tolerance(run, kv()));
      EXPECT_NE(plain[0].logits, shifted[0].logits) << "nothing was taken from the keys";
    }
  }
}

TEST_P(KeyMeansTest, ACodedCacheDoesNotSeeChunksEither) {
  EngineOptions options = Plain(AttentionMode::kDuo);
  options.kv = KvFormat::kInt4;
  const std::vector<Reply> whole = Answers(With(options, 1));
  options.chunk = 37;
  const std::vector<Reply> pieces = Answers(With(options, 1));
  ASSERT_EQ(whole.size(), pieces.size());
  for (size_t i = 0; i < whole.size(); ++i) ExpectSame(whole[i], pieces[i], Tolerance(golden_.duo, KvFormat::kInt4));
}

// Sessions saved with means are those of the same means only.
TEST_P(KeyMeansTest, SavedSessionsAreRestoredWhereTheSameMeansAreOn) {
  const std::string dir = scratch_.string() + "/saved";
  const auto store = [&](Bench& bench) { return *SessionStore::Open(dir, golden_.model_dir, *bench.engine); };
  const auto finish = [](auto& job) -> absl::Status {
    while (true) {
      const absl::StatusOr<bool> done = job.Step();
      if (!done.ok()) return done.status();
      if (*done) return absl::OkStatus();
    }
  };
  const auto save = [&](const EngineOptions& options, const std::string& id) {
    Bench bench = Open(options);
    const SessionId session = bench.Open(500);
    bench.Append(session, Text(300, 1));
    bench.Run();
    const auto saved = store(bench);
    const auto job = saved->StartSave(id, session, SessionManifest());
    ASSERT_TRUE(job.ok() && finish(**job).ok());
  };
  Reply expected;
  {
    Bench bench = Open(Plain(AttentionMode::kDuo));
    const SessionId session = bench.Open(500);
    bench.Append(session, Text(300, 1));
    expected = bench.AskNow(session, Text(5, 2));
  }
  const EngineOptions plain = Plain(AttentionMode::kDuo), first = With(plain, 1), second = With(plain, 2);
  save(plain, "plain");
  save(first, "first");
  struct {
    const EngineOptions& options;
    std::string id, refusal;  // empty: it is restored
  } const cases[] = {{plain, "plain", ""},
                     {first, "first", ""},
                     {plain, "first", "start one with --key-means of the same file"},
                     {second, "first", "start one with --key-means of the same file"},
                     {first, "plain", "start one with --key-means off"}};
  for (const auto& c : cases) {
    SCOPED_TRACE(c.id + " " + c.options.key_means_dir);
    Bench bench = Open(c.options);
    const auto saved = store(bench);
    const absl::StatusOr<SavedSession> found = saved->Find(c.id);
    ASSERT_TRUE(found.ok() && found->manifest.ok()) << found.status();
    EXPECT_EQ(found->manifest->key_means.empty(), c.id == "plain");
    const auto job = saved->StartRestore(c.id, 500);
    const absl::Status restored = job.ok() ? finish(**job) : job.status();
    if (c.refusal.empty()) {
      ASSERT_TRUE(restored.ok()) << restored;
      ExpectSame(expected, bench.AskNow((*job)->session(), Text(5, 2)), Tolerance(golden_.duo, kv()));
      continue;
    }
    EXPECT_EQ(restored.code(), absl::StatusCode::kFailedPrecondition) << restored;
    EXPECT_NE(restored.message().find(c.refusal), absl::string_view::npos) << restored;
    EXPECT_NE(restored.message().find("restore --reread"), absl::string_view::npos) << restored;
  }
  // A program that does not know the field must not restore it: it is named among what its readers need.
  Bench bench = Open(first);
  SessionManifest manifest = *store(bench)->Find("first")->manifest;
  const std::string text = FormatManifest(manifest);
  EXPECT_NE(text.find("\"needs\":[\"key_means\"]"), std::string::npos) << text;
  manifest.key_means.clear();
  EXPECT_EQ(FormatManifest(manifest).find("key_means"), std::string::npos);
}

TEST_F(EngineFixture, KeyMeansAreRefusedWhereTheyAreMissingOrAnotherShapes) {
  const auto refusal = [](const EngineOptions& options) {
    const std::unique_ptr<Device> device = Device::Cpu(1);
    const std::unique_ptr<Communicator> comm = MakeSelfCommunicator();
    const auto engine = Engine::Create(options, *device, *comm);
    EXPECT_FALSE(engine.ok());
    return std::string(engine.status().message());
  };
  EngineOptions options = Options();
  options.key_means = true;  // the pattern's folder has none
  EXPECT_NE(refusal(options).find("duo identify --model DIR --key-means TEXT"), std::string::npos) << refusal(options);
  options.key_means_dir = scratch_.string() + "/means";
  ASSERT_TRUE(WriteKeyMeans(MadeUpMeans(2, 3, 64, 1), options.key_means_dir).ok());
  EXPECT_NE(refusal(options).find("expected 2 layers of 2 KV heads of 64 channels"), std::string::npos)
      << refusal(options);
  const Golden sinks = LoadGolden("gpt_oss_stacked", scratch_.string());
  options.model_dir = sinks.model_dir;
  options.pattern_dir = sinks.pattern_dir;
  EXPECT_NE(refusal(options).find("--key-means: models with learned attention sinks"), std::string::npos)
      << refusal(options);
}

// A model one of whose key channels is nearly the same for all tokens: int4's levels are spent on it, unless its mean
// is taken away first. The mean is of another text than the one that is read.
TEST_F(EngineFixture, MeasuredMeansTakeAwayWhatALargeMeanCostsInt4) {
  const Golden golden = LoadGolden("qwen2_tied", scratch_.string() + "/qwen");
  const std::string path = golden.model_dir + "/model.safetensors";
  std::string bytes = *ReadFile(path);
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), 8);
  const auto header = nlohmann::json::parse(bytes.substr(8, length));
  const float bias = 200;
  for (const auto& [name, tensor] : header.items()) {
    if (!name.ends_with("k_proj.bias")) continue;
    std::memcpy(bytes.data() + 8 + length + tensor["data_offsets"][0].get<size_t>() + 4 * 60, &bias, 4);
  }
  std::ofstream(path, std::ios::binary) << bytes;

  const std::unique_ptr<Device> device = Device::Cpu(2);
  IdentifyModel::Sizes sizes;
  sizes.max_tokens = 300;
  absl::StatusOr<IdentifyModel> model = IdentifyModel::Load(golden.model_dir, sizes, *device, [](int64_t, int64_t) {});
  ASSERT_TRUE(model.ok()) << model.status();
  const auto text = [](int count, uint64_t seed) {
    std::vector<int32_t> tokens(count);
    for (int i = 0; i < count; ++i) tokens[i] = static_cast<int32_t>(SplitMix64(seed + i) % 250);
    return tokens;
  };
  KeyMeans means = MadeUpMeans(static_cast<int>(model->config().layers), static_cast<int>(model->config().kv_heads),
                               static_cast<int>(model->config().head_dim), 1);
  means.values = model->KeySums(text(300, 5));
  means.tokens = 299;
  for (double& value : means.values) value /= 299;
  EXPECT_NEAR(means.values[60], bias, 5) << "the bias is what RoPE takes, not what it makes of it";
  const std::string dir = scratch_.string() + "/measured";
  ASSERT_TRUE(WriteKeyMeans(means, dir).ok());

  const auto logits = [&](KvFormat kv, bool shifted) {
    EngineOptions options;
    options.model_dir = golden.model_dir;
    options.attention = AttentionMode::kFull;
    options.kv = kv;
    options.max_session_tokens = options.kv_tokens = 400;
    options.append_logits = true;
    options.key_means = shifted;
    options.key_means_dir = shifted ? dir : "";
    Bench bench = Open(options);
    std::vector<std::vector<float>> all;
    RequestEvents events;
    events.on_logits = [&](const std::vector<float>& row) { all.push_back(row); };
    EXPECT_TRUE(bench.engine->Append(bench.Open(400), text(400, 77), std::move(events)).ok());
    bench.Run();
    return all;
  };
  const auto plain = logits(KvFormat::kF32, false);
  const auto error = [&](const std::vector<std::vector<float>>& other) {
    double sum = 0;
    for (size_t t = 0; t < plain.size(); ++t) {
      for (size_t i = 0; i < plain[t].size(); ++i) sum += std::pow(double{plain[t][i]} - other[t][i], 2);
    }
    return std::sqrt(sum);
  };
  const double as_they_are = error(logits(KvFormat::kInt4, false)), without = error(logits(KvFormat::kInt4, true));
  EXPECT_LT(without, 0.25 * as_they_are);
  EXPECT_LT(error(logits(KvFormat::kF32, true)), 0.01 * without);
}

}  // namespace
}  // namespace duo
