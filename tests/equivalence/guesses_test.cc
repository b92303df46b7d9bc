// Answers with drafts that something cheaper than the model guesses are those without, to the bit, on the CPU: an int4
// copy of its weights, or another model. (Guesses by page lists with the weights themselves: drafts_test.cc.)
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/row_cuts.h"
#include "runtime/engine/draft_probe.h"
#include "runtime/engine/probe.h"
#include "tests/equivalence/draft_script.h"
#include "tests/equivalence/engine_fixture.h"
#include "tests/support/test_scale.h"

namespace duo {
namespace {

using Json = nlohmann::json;

// Guesses by an int4 copy of the weights (--draft-weights int4), which are also made behind short texts.
class Int4GuessesTest : public EngineFixture {
 protected:
  void SetUp() override {
    EngineFixture::SetUp();
    golden_ = LoadGolden("needle-6m", scratch_.string());  // whose columns are multiples of 32
  }
  EngineOptions With(Speculation speculate, int before) const {
    EngineOptions options = Options();
    options.kv = KvFormat::kF32;
    options.max_session_tokens = before + 600;
    options.kv_tokens = 4 * (before + 1000);
    options.sessions = 3;
    options.speculate = speculate;
    options.int4_drafts = speculate == Speculation::kSelf;
    options.guess_target = 300;
    options.measured = false;
    options.sink = 3;
    options.recent = 21;
    return options;
  }
};

TEST_F(Int4GuessesTest, AnswersAreTheSameToTheBit) {
  for (const int before : {0, 4200}) {  // without page lists and with them
    SCOPED_TRACE(before);
    Bench plain = Open(With(Speculation::kOff, before)), guessing = Open(With(Speculation::kSelf, before), 1);
    ASSERT_TRUE(plain.engine != nullptr && guessing.engine != nullptr);
    const int calls = 12;
    for (uint64_t seed = FirstSeed(0); seed < FirstSeed(0) + Scaled(1); ++seed) {
      const std::vector<ScriptAnswer> expected = RunDraftScript(*plain.engine, seed, calls, before);
      const std::vector<ScriptAnswer> found = RunDraftScript(*guessing.engine, seed, calls, before);
      ASSERT_EQ(DifferenceOf(found, expected), "") << "seed " << seed;
    }
    const EngineStats stats = guessing.engine->stats();
    std::printf("%lld tokens guessed by int4 weights; of %lld drafts %lld were right\n",
                static_cast<long long>(stats.guess_steps), static_cast<long long>(stats.drafted_tokens),
                static_cast<long long>(stats.accepted_tokens));
    EXPECT_GT(stats.guess_steps, 10);
    EXPECT_GT(stats.accepted_tokens, 0);
    EXPECT_GT(stats.drafted_tokens, stats.accepted_tokens);
  }
}

// An int4 copy of a model is mostly right about the model, and a copy that shares what it should not is not.
TEST_F(Int4GuessesTest, MostAreRightWhereTheModelIsSure) {
  Bench bench = Open(With(Speculation::kSelf, 2000));
  ASSERT_NE(bench.engine, nullptr);
  const SessionId session = bench.Open(2500);
  bench.Append(session, golden_.prompt);
  Reply reply;
  GenerateParams params;
  params.max_new_tokens = 120;
  params.temperature = 1;  // so that the text has little to propose
  bench.Ask(session, Text(3, 1), &reply, params);
  bench.Run();
  std::printf("%lld guessed by int4 weights; %lld of %lld drafts were right\n",
              static_cast<long long>(reply.result.guess_steps), static_cast<long long>(reply.result.accepted_tokens),
              static_cast<long long>(reply.result.drafted_tokens));
  EXPECT_GT(reply.result.guess_steps, 30);
  EXPECT_GT(2 * reply.result.accepted_tokens, reply.result.guess_steps);
}

// What drafts rest on, through the whole model; and rows that see less see something.
TEST_F(Int4GuessesTest, RowsOfAStepDrawWhatTheyDrawAlone) {
  for (const KvFormat kv : {KvFormat::kF32, KvFormat::kInt4}) {
    EngineOptions options = With(Speculation::kSelf, 6200);
    options.kv = kv;
    Bench bench = Open(options);
    ASSERT_NE(bench.engine, nullptr);
    const absl::StatusOr<SessionId> session = EngineProbe(*bench.engine).CreateFilledSession(6500, 6600);
    ASSERT_TRUE(session.ok()) << session.status();
    DraftProbe probe(*bench.engine, *session, 300);
    for (const float temperature : {0.0f, 1.0f}) {
      for (const int rows : {3, kExactRows}) {
        for (const RowsFed fed : {RowsFed::kDrawn, RowsFed::kSession}) {
          EXPECT_EQ(probe.DrawnOtherwise(64, rows, temperature, fed), 0) << Name(kv) << ", " << rows << " rows";
        }
      }
    }
    double density = 0;
    EXPECT_GT(probe.MakeLists(50, &density), 0);
    EXPECT_GT(density, 0.2);
    EXPECT_LT(density, 0.7);
    for (const bool copy : {false, true}) {
      for (const GuessKind kind : {GuessKind::kLists, GuessKind::kEnds}) EXPECT_GT(probe.Guess(kind, copy), 0);
    }
  }
}

TEST_F(Int4GuessesTest, TheCopyIsInTheMemoryPlan) {
  const auto device = Device::Cpu(1);
  const auto comm = MakeSelfCommunicator();
  const auto plan = [&](bool int4, bool tied) {
    ProbeOptions options = {With(Speculation::kSelf, 0), LoadConfig(golden_.model_dir).value(), ""};
    options.shape->tie_embeddings = tied;
    options.attention = AttentionMode::kFull;
    options.pattern_dir.clear();
    options.threshold.reset();
    options.int4_drafts = int4;
    const absl::StatusOr<MemoryPlan> made = EngineProbe::PlanMemory(options, *device, *comm);
    EXPECT_TRUE(made.ok()) << made.status();
    return made.value_or(MemoryPlan());
  };
  const MemoryPlan without = plan(false, true), tied = plan(true, true), untied = plan(true, false);
  EXPECT_EQ(without.draft_weights, 0);
  EXPECT_EQ(tied.weights, without.weights);
  EXPECT_GE(tied.total(), without.total() + tied.draft_weights);
  // Groups of 32 columns: five bits a weight of matrices and head, and vectors in f32.
  const double bits = 8.0 * static_cast<double>(tied.draft_weights) / (8.0 * static_cast<double>(tied.weights) / 16);
  EXPECT_GT(bits, 4.9);
  EXPECT_LT(bits, 5.3);
  EXPECT_EQ(untied.draft_weights, tied.draft_weights);  // an embedding is the served weights'
  EXPECT_NE(Describe(tied).find("draft weights"), std::string::npos) << Describe(tied);
  EXPECT_EQ(Describe(without).find("draft weights"), std::string::npos) << Describe(without);
}

TEST_F(Int4GuessesTest, IsRefusedWhereItBringsNothing) {
  const auto device = Device::Cpu(1);
  const auto comm = MakeSelfCommunicator();
  const auto refused = [&](const EngineOptions& options) {
    const auto engine = Engine::Create(options, *device, *comm);
    return engine.ok() ? std::string() : std::string(engine.status().message());
  };
  EngineOptions options = With(Speculation::kText, 0);
  options.int4_drafts = true;
  EXPECT_NE(refused(options).find("--speculate self"), std::string::npos);
  options = With(Speculation::kSelf, 0);
  options.weights = DType::kI4;
  EXPECT_NE(refused(options).find("are int4 themselves"), std::string::npos);
  golden_ = LoadGolden("llama_mqa_f16", scratch_.string());  // hidden 80
  options = Options();
  options.speculate = Speculation::kSelf;
  options.int4_drafts = true;
  EXPECT_NE(refused(options).find("in multiples of 32"), std::string::npos);
}

// Guesses of another model (--draft-model): of three of the model's six layers, and of the model itself.
class DraftModelTest : public Int4GuessesTest {
 protected:
  // A folder with the model's tokenizer and so many of its layers.
  std::string ModelOfLayers(int layers) const {
    namespace fs = std::filesystem;
    const fs::path dir = scratch_ / ("layers" + std::to_string(layers));
    if (fs::exists(dir)) return dir.string();
    fs::create_directories(dir);
    for (const char* file : {"model.safetensors", "tokenizer.json"}) {
      fs::copy_file(fs::path(golden_.model_dir) / file, dir / file);
    }
    Json config = ReadJson(fs::path(golden_.model_dir) / "config.json");
    config["num_hidden_layers"] = layers;
    std::ofstream(dir / "config.json") << config.dump();
    return dir.string();
  }
  static Json ReadJson(const std::filesystem::path& path) {
    std::ifstream file(path);
    return Json::parse(file);
  }
  EngineOptions With(const std::string& draft_model, int before = 0) const {
    EngineOptions options = Int4GuessesTest::With(Speculation::kOff, before);
    options.draft_model = draft_model;
    if (!draft_model.empty()) options.speculate = Speculation::kModel;
    return options;
  }
};

TEST_F(DraftModelTest, AnswersAreTheSameToTheBit) {
  Bench plain = Open(With(""));
  ASSERT_NE(plain.engine, nullptr);
  for (const int layers : {3, 6}) {
    Bench guessing = Open(With(ModelOfLayers(layers)), 1);
    ASSERT_NE(guessing.engine, nullptr);
    for (uint64_t seed = FirstSeed(0); seed < FirstSeed(0) + Scaled(1); ++seed) {
      const std::vector<ScriptAnswer> expected = RunDraftScript(*plain.engine, seed, 12);
      const std::vector<ScriptAnswer> found = RunDraftScript(*guessing.engine, seed, 12);
      ASSERT_EQ(DifferenceOf(found, expected), "") << "seed " << seed << " layers " << layers;
    }
    const EngineStats stats = guessing.engine->stats();
    std::printf("%d layers: %lld steps of guesses; of %lld drafts %lld were right\n", layers,
                static_cast<long long>(stats.guess_steps), static_cast<long long>(stats.drafted_tokens),
                static_cast<long long>(stats.accepted_tokens));
    EXPECT_GT(stats.guess_steps, 10);
    EXPECT_GT(stats.accepted_tokens, 0);
  }
}

// It is a text of its own that begins somewhere before the answer, and begins anew where it is full.
TEST_F(DraftModelTest, GoesOnBeyondItsWindowAndKnowsWhatTheModelItselfDraws) {
  const std::vector<int32_t> document = Text(100, 3), question = Text(5, 4);
  const auto ask = [&](const std::string& draft_model, const std::vector<int32_t>& read, int tokens,
                       float temperature) {
    EngineOptions options = With(draft_model, 2000);
    options.attention = AttentionMode::kFull;  // as the draft model has it
    options.pattern_dir.clear();
    options.threshold.reset();
    options.sink = options.recent = std::nullopt;
    Bench bench = Open(options);
    const SessionId session = bench.Open(2500);
    bench.Append(session, read);
    Reply reply;
    GenerateParams params;
    params.max_new_tokens = tokens;
    params.temperature = temperature;
    params.seed = 5;
    bench.Ask(session, question, &reply, params);
    bench.Run();
    EXPECT_TRUE(reply.result.status.ok()) << reply.result.status;
    return reply;
  };
  const std::string itself = ModelOfLayers(6);
  for (const float temperature : {0.0f, 1.0f}) {
    SCOPED_TRACE(temperature);
    const Reply reply = ask(itself, document, 200, temperature);
    EXPECT_EQ(reply.tokens, ask("", document, 200, temperature).tokens);
    EXPECT_GT(reply.result.guess_steps, temperature > 0 ? 40 : 5);
    // It saw all that the model saw; what was wrong was the text's.
    EXPECT_GE(reply.result.accepted_tokens, reply.result.guess_steps) << "of " << reply.result.drafted_tokens;
  }
  const std::vector<int32_t> more = Text(900, 6);
  const Reply reply = ask(itself, more, 600, 1);
  EXPECT_EQ(reply.tokens, ask("", more, 600, 1).tokens);
  EXPECT_GT(reply.result.guess_steps, 0);
}

TEST_F(DraftModelTest, IsInTheMemoryPlan) {
  const Bench plain = Open(With("")), guessing = Open(With(ModelOfLayers(3)));
  ASSERT_TRUE(plain.engine != nullptr && guessing.engine != nullptr);
  const MemoryPlan without = plain.engine->memory_plan(), with = guessing.engine->memory_plan();
  EXPECT_EQ(without.draft_model, 0);
  EXPECT_GT(with.draft_model, without.weights / 3);
  EXPECT_GE(with.total(), without.total() + with.draft_model);
  EXPECT_NE(Describe(with).find("draft model"), std::string::npos) << Describe(with);
}

TEST_F(DraftModelTest, AutoTakesItAndNothingElseDoes) {
  EngineOptions options = With(ModelOfLayers(3));
  options.speculate = Speculation::kAuto;
  EXPECT_EQ(Open(options).engine->speculation(), Speculation::kModel);
  const auto refused = [&] {
    const auto device = Device::Cpu(1);
    const auto comm = MakeSelfCommunicator();
    const auto engine = Engine::Create(options, *device, *comm);
    return engine.ok() ? std::string() : std::string(engine.status().message());
  };
  options.speculate = Speculation::kText;
  EXPECT_NE(refused().find("--draft-model"), std::string::npos);
  options.speculate = Speculation::kModel;
  options.draft_model.clear();
  EXPECT_NE(refused().find("needs --draft-model"), std::string::npos);
}

TEST_F(DraftModelTest, OtherTokenizersAreRefusedByTheTokenThatDiffers) {
  const std::string dir = ModelOfLayers(3);
  const std::filesystem::path path = std::filesystem::path(dir) / "tokenizer.json";
  Json tokenizer = ReadJson(path);
  Json& added = tokenizer["added_tokens"].back();
  const int id = added["id"];
  Json& vocabulary = tokenizer["model"]["vocab"];
  vocabulary.erase(added["content"].get<std::string>());
  vocabulary["<|another|>"] = id;
  added["content"] = "<|another|>";
  std::filesystem::remove(path);
  std::ofstream(path) << tokenizer.dump();
  const auto device = Device::Cpu(1);
  const auto comm = MakeSelfCommunicator();
  const auto engine = Engine::Create(With(dir), *device, *comm);
  ASSERT_FALSE(engine.ok());
  for (const std::string& part : {"--draft-model " + dir, "token " + std::to_string(id), std::string("<|another|>")}) {
    EXPECT_NE(engine.status().message().find(part), std::string::npos) << engine.status();
  }
}

}  // namespace
}  // namespace duo
