// Answers with drafts from the text (--speculate text) are those without: the same tokens, logits and scores, to the
// bit, on the CPU, whatever the codec, the heads and the questions.
#include <cmath>
#include <cstdio>

#include "runtime/saved/session_store.h"
#include "tests/equivalence/draft_script.h"
#include "tests/equivalence/engine_fixture.h"
#include "tests/equivalence/store_fixture.h"
#include "tests/support/test_scale.h"

namespace duo {
namespace {

class DraftsTest : public EngineFixture, public testing::WithParamInterface<KvFormat> {
 protected:
  EngineOptions With(Speculation speculate) const {
    EngineOptions options = Options();
    options.kv = GetParam();
    options.speculate = speculate;
    return options;
  }
};
INSTANTIATE_TEST_SUITE_P(cpu, DraftsTest,
                         testing::Values(KvFormat::kF32, KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8,
                                         KvFormat::kInt4),
                         [](const auto& info) { return std::string(Name(info.param)); });

TEST_P(DraftsTest, AnswersAreTheSameToTheBit) {
  int asked = 0;
  int64_t tokens = 0, accepted = 0, drafted = 0;
  for (const AttentionMode attention : {AttentionMode::kDuo, AttentionMode::kFull, AttentionMode::kStreaming}) {
    EngineOptions off = With(Speculation::kOff), text = With(Speculation::kText);
    if (attention != AttentionMode::kDuo) {
      for (EngineOptions* options : {&off, &text}) {
        options->attention = attention;
        options->pattern_dir.clear();
        options->threshold.reset();
      }
    }
    off.sink = text.sink = 3;  // rings go round many times
    off.recent = text.recent = 21;
    Bench plain = Open(off), drafting = Open(text, 1);
    ASSERT_TRUE(plain.engine != nullptr && drafting.engine != nullptr);
    for (uint64_t seed = FirstSeed(0); seed < FirstSeed(0) + Scaled(2); ++seed) {
      const std::vector<ScriptAnswer> expected = RunDraftScript(*plain.engine, seed, 12);
      const std::vector<ScriptAnswer> found = RunDraftScript(*drafting.engine, seed, 12);
      ASSERT_EQ(DifferenceOf(found, expected), "") << "seed " << seed << " attention " << Name(attention);
      asked += static_cast<int>(expected.size());
      for (const ScriptAnswer& answer : found) tokens += static_cast<int64_t>(answer.tokens.size());
    }
    EXPECT_EQ(plain.engine->stats().drafted_tokens, 0);
    drafted += drafting.engine->stats().drafted_tokens;
    accepted += drafting.engine->stats().accepted_tokens;
  }
  std::printf("%d answers of %lld tokens compared; %lld drafted, %lld accepted\n", asked,
              static_cast<long long>(tokens), static_cast<long long>(drafted), static_cast<long long>(accepted));
  EXPECT_GT(accepted, 20);
  EXPECT_GT(drafted, accepted);  // some were wrong, and were taken back
}

// Behind texts that are long enough for page lists, drafts are the model's own guesses, too (--speculate self).
class GuessesTest : public EngineFixture {
 protected:
  static constexpr int kBefore = 4200;  // tokens

  void SetUp() override {
    EngineFixture::SetUp();
    golden_ =
        LoadGolden("llama_mqa_f16", scratch_.string());  // which has a layer that may have lists, and one of rings
    GivePositions(golden_, 8192);
  }
  EngineOptions With(Speculation speculate, KvFormat kv) const {
    EngineOptions options = Options();
    options.kv = kv;
    options.max_session_tokens = kBefore + 600;
    options.kv_tokens = 16'000;
    options.sessions = 3;
    options.speculate = speculate;
    options.guess_target = 300;  // its attention is spread evenly
    options.measured = false;    // guesses are worth it, whatever they take here
    options.sink = 3;
    options.recent = 21;
    return options;
  }
};

TEST_F(GuessesTest, AnswersAreTheSameToTheBit) {
  int asked = 0;
  int64_t guessed = 0;
  for (const KvFormat kv : kKvFormats) {
    if (TestScale() == 1 && kv != KvFormat::kF32 && kv != KvFormat::kInt4) continue;
    Bench plain = Open(With(Speculation::kOff, kv)), guessing = Open(With(Speculation::kSelf, kv), 1);
    ASSERT_TRUE(plain.engine != nullptr && guessing.engine != nullptr);
    for (uint64_t seed = FirstSeed(0); seed < FirstSeed(0) + Scaled(1); ++seed) {
      const std::vector<ScriptAnswer> expected = RunDraftScript(*plain.engine, seed, 10, kBefore);
      const std::vector<ScriptAnswer> found = RunDraftScript(*guessing.engine, seed, 10, kBefore);
      ASSERT_EQ(DifferenceOf(found, expected), "") << "seed " << seed << " kv " << Name(kv);
      asked += static_cast<int>(expected.size());
      for (const ScriptAnswer& answer : found) EXPECT_FALSE(answer.result.decode.sparse());
    }
    const EngineStats stats = guessing.engine->stats();
    guessed += stats.guess_steps;
    EXPECT_GT(stats.guess_steps, 20) << Name(kv);
    EXPECT_GT(stats.drafted_tokens, stats.accepted_tokens);
    EXPECT_GT(stats.accepted_tokens, 0);
  }
  std::printf("%d answers compared, %lld tokens guessed\n", asked, static_cast<long long>(guessed));
}

TEST_F(GuessesTest, AreNotForAnswersThatAreWrittenByLists) {
  EngineOptions both = With(Speculation::kSelf, KvFormat::kF32);
  both.decode_sparsity = *DecodeSparsityNamed("auto");
  const auto device = Device::Cpu(1);
  const auto comm = MakeSelfCommunicator();
  const auto engine = Engine::Create(both, *device, *comm);
  ASSERT_FALSE(engine.ok());
  EXPECT_NE(engine.status().message().find("--speculate self"), std::string::npos) << engine.status();
}

// What answers on GPUs are held to: it finds a logit that is too far away, and stops where texts part.
TEST(DraftScript, DifferencesBeyondTheToleranceAreFoundUntilTextsPart) {
  ScriptAnswer first;
  first.asked = "first";
  first.tokens = {1, 2};
  first.logits = {{0, 1}, {2, 3}};
  ScriptAnswer second = first;
  second.asked = "second";
  const auto compare = [&](const std::vector<ScriptAnswer>& found, int64_t compared, int parted) {
    int64_t tokens = 0;
    int parts = 0;
    std::string wrong = DifferenceWithin(found, {first, second}, 0.1f, &tokens, &parts);
    EXPECT_EQ(tokens, compared);
    EXPECT_EQ(parts, parted);
    return wrong;
  };
  ScriptAnswer near = first, far = second, other = first;
  near.logits[1][0] += 0.05f;
  EXPECT_EQ(compare({near, second}, 4, 0), "");
  far.logits[1][1] = NAN;
  EXPECT_NE(compare({near, far}, 3, 0).find("second: token 1: logit 1"), std::string::npos);
  other.tokens[0] = 7;
  EXPECT_NE(compare({other, far}, 2, 1), "");  // what follows is compared still
  other.kept = true;
  EXPECT_EQ(compare({other, far}, 1, 1), "");  // the session is another one
}

// Rings with slack and rings without are saved alike.
class DraftsSaved : public StoreFixture {};

TEST_F(DraftsSaved, SessionsSavedWithDraftsAreRestoredWithoutAndTheReverse) {
  Tokens document;
  for (int i = 0; i < 20; ++i) document = Joined(std::move(document), Text(11, 1 + i % 3));
  const Tokens question(document.end() - 9, document.end() - 3);
  for (const bool saved_with : {true, false}) {
    SCOPED_TRACE(saved_with ? "saved with drafts" : "restored with drafts");
    EngineOptions with = Options(), without = Options();
    with.files = without.files = &files_;
    with.speculate = Speculation::kText;
    Bench before = EngineFixture::Open(saved_with ? with : without);
    Bench after = EngineFixture::Open(saved_with ? without : with);
    auto store = SessionStore::Open(kDir, golden_.model_dir, *before.engine, Plain());
    ASSERT_TRUE(store.ok()) << store.status();
    const SessionId session = before.Open(500);
    before.Append(session, document);
    Reply kept;
    GenerateParams params;
    params.max_new_tokens = 40;
    params.keep = true;
    before.Ask(session, question, &kept, params);
    before.Run();
    const std::string id = saved_with ? "with" : "without";
    ASSERT_TRUE(SaveIn(**store, id, session).ok());
    const Reply expected = before.AskNow(session, question, 40);
    store->reset();
    auto other = SessionStore::Open(kDir, golden_.model_dir, *after.engine, Plain());
    ASSERT_TRUE(other.ok()) << other.status();
    auto job = (*other)->StartRestore(id, 0);
    ASSERT_TRUE(job.ok()) << job.status();
    const absl::Status restored = Finish(**job);
    ASSERT_TRUE(restored.ok()) << restored;
    const Reply found = after.AskNow((*job)->session(), question, 40);
    EXPECT_EQ(found.tokens, expected.tokens);
    EXPECT_EQ(found.logits, expected.logits);
    EXPECT_TRUE(after.engine->Kv((*job)->session())->rings_valid);
    EXPECT_EQ(after.engine->Get((*job)->session())->tokens, before.engine->Get(session)->tokens);
    EXPECT_GT((saved_with ? before : after).engine->stats().accepted_tokens, 0);
  }
}

}  // namespace
}  // namespace duo
