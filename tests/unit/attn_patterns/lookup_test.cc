#include "attn_patterns/lookup.h"

#include <filesystem>
#include <fstream>
#include <string>

#include "gtest/gtest.h"
#include "tests/unit/expect.h"

namespace duo {
namespace {

namespace fs = std::filesystem;

class Lookup : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::canonical(testing::TempDir()) /
            (std::string("lookup_") + testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(root_);
    fs::create_directories(root_ / "model");
    fs::create_directories(root_ / "patterns");
  }

  // A pattern of 1 x 2 whose sink size tells it from the others.
  void Put(const fs::path& dir, int sink, std::vector<std::string> models = {},
           std::vector<std::string> fingerprints = {}) {
    Pattern pattern;
    pattern.layers = 1;
    pattern.kv_heads = 2;
    pattern.gates = {0.25, 1};
    pattern.sink = sink;
    pattern.models = std::move(models);
    pattern.fingerprints = std::move(fingerprints);
    ASSERT_TRUE(WritePattern(pattern, PatternConfigJson(pattern), (root_ / dir).string()).ok());
  }
  static ModelIdentity Identity(const std::string& dir, const std::string& name_or_path = "",
                                const std::string& fingerprint = "") {
    return {dir, ModelNames(dir, name_or_path), [fingerprint] { return fingerprint; }};
  }
  absl::StatusOr<FoundPattern> Find(int layers = 1, int kv_heads = 2) {
    return FindPattern(Identity((root_ / "model").string()), layers, kv_heads, {(root_ / "patterns").string()});
  }
  int Sink() {
    const auto found = Find();
    EXPECT_TRUE(found.ok()) << found.status();
    return found.ok() ? found->pattern.sink : -1;
  }

  fs::path root_;
};

TEST_F(Lookup, TheModelsOwnPatternComesFirstThenItsNameThenLists) {
  Put("patterns/other", 3, {"x", "Model"});
  EXPECT_EQ(Sink(), 3);
  Put("patterns/model", 2);
  EXPECT_EQ(Sink(), 2);
  Put("model/attn_pattern", 1);
  EXPECT_EQ(Sink(), 1);
  EXPECT_EQ(Find()->dir, (root_ / "model" / "attn_pattern").string());
}

TEST_F(Lookup, AModelThatIsAFileHasItsOwnPatternBesideIt) {
  const fs::path file = root_ / "m.Q4_K_M.gguf";
  std::ofstream(file) << "GGUF";
  EXPECT_EQ(OwnPatternFolder(file.string()), (root_ / "m.Q4_K_M.attn_pattern").string());
  EXPECT_EQ(OwnPatternFolder((root_ / "model").string()), (root_ / "model" / "attn_pattern").string());
  Put("m.Q4_K_M.attn_pattern", 5);
  const absl::StatusOr<FoundPattern> found = FindPattern(Identity(file.string()), 1, 2, {});
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->pattern.sink, 5);
}

TEST_F(Lookup, ARunFolderInsideIsTakenAsPublished) {
  Put("patterns/MODEL/lr=0.02-reg=0.05", 7);
  EXPECT_EQ(Sink(), 7);
  Put("patterns/MODEL/lr=0.03-reg=0.05", 8);
  EXPECT_TRUE(Contains(Find().status().message(),
                       "expected one pattern, found 2 (lr=0.02-reg=0.05, lr=0.03-reg=0.05); choose with --pattern"));
}

// The Hugging Face cache keeps a model in a folder that is named by a hash.
TEST_F(Lookup, AFolderOfTheCacheIsKnownByItsModel) {
  const fs::path snapshot = root_ / "hub" / "models--Some-Org--Model-7B" / "snapshots" / "0123abcd";
  fs::create_directories(snapshot);
  EXPECT_EQ(ModelNames(snapshot.string(), ""), (std::vector<std::string>{"0123abcd", "Model-7B"}));
  Put("patterns/model-7b", 5);
  const auto found = FindPattern(Identity(snapshot.string()), 1, 2, {(root_ / "patterns").string()});
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->pattern.sink, 5);
}

TEST_F(Lookup, AModelIsKnownByWhatItsConfigCallsIt) {
  Put("patterns/Model-7B", 6);
  EXPECT_TRUE(absl::IsNotFound(Find().status()));
  const ModelIdentity named = Identity((root_ / "model").string(), "some-org/Model-7B");
  EXPECT_EQ(FindPattern(named, 1, 2, {(root_ / "patterns").string()})->pattern.sink, 6);
}

TEST_F(Lookup, WeightsAreKnownByTheirFingerprintWhenNoNameIs) {
  Put("patterns/other", 7, {}, {"aa", "bb"});
  const std::vector<std::string> roots = {(root_ / "patterns").string()};
  const std::string dir = (root_ / "model").string();
  EXPECT_TRUE(absl::IsNotFound(FindPattern(Identity(dir, "", "cc"), 1, 2, roots).status()));
  EXPECT_TRUE(absl::IsNotFound(FindPattern(Identity(dir, "", ""), 1, 2, roots).status()));
  EXPECT_EQ(FindPattern(Identity(dir, "", "bb"), 1, 2, roots)->pattern.sink, 7);
  Put("patterns/model", 8);
  EXPECT_EQ(FindPattern(Identity(dir, "", "bb"), 1, 2, roots)->pattern.sink, 8);
}

TEST_F(Lookup, AnotherShapeIsRefused) {
  Put("patterns/model", 2);
  EXPECT_TRUE(
      Contains(Find(1, 3).status().message(), "expected a pattern of 1 layers x 3 KV heads, the model's, found 1 x 2"));
}

TEST_F(Lookup, NothingFoundSaysHowToGetOne) {
  const std::string error(Find().status().message());
  for (const char* way : {"--pattern DIR", "duo identify", "--attention full"}) EXPECT_TRUE(Contains(error, way));
}

TEST_F(Lookup, ADamagedPatternMattersOnlyToItsModel) {
  fs::create_directories(root_ / "patterns" / "broken");
  std::ofstream(root_ / "patterns" / "broken" / "full_attention_heads.tsv") << "nonsense\n";
  Put("patterns/other", 3, {"model"});
  EXPECT_EQ(Sink(), 3);
  fs::create_directories(root_ / "patterns" / "model");
  std::ofstream(root_ / "patterns" / "model" / "full_attention_heads.tsv") << "nonsense\n";
  EXPECT_TRUE(Contains(Find().status().message(), "expected a finite number"));
}

TEST_F(Lookup, TheModelsNameSurvivesDotsAndSlashes) {
  Put("patterns/model", 2);
  const std::vector<std::string> roots = {(root_ / "patterns").string()};
  EXPECT_TRUE(FindPattern(Identity((root_ / "model").string() + "/"), 1, 2, roots).ok());
  EXPECT_TRUE(FindPattern(Identity((root_ / "model" / "." / "").string()), 1, 2, roots).ok());
}

TEST_F(Lookup, NamedFoldersAreCheckedToo) {
  Put("patterns/model/run", 2);
  EXPECT_EQ(OpenPattern((root_ / "patterns" / "model").string(), 1, 2)->pattern.sink, 2);
  EXPECT_TRUE(
      Contains(OpenPattern((root_ / "model").string(), 1, 2).status().message(), "expected full_attention_heads.tsv"));
  EXPECT_TRUE(
      Contains(OpenPattern("/nonexistent", 1, 2).status().message(), "/nonexistent: expected a pattern folder"));
}

TEST_F(Lookup, RootsAreBesideTheProgramInSharedDataAndInTheSourceTree) {
  // Installed: prefix/bin/duo with prefix/share/duo/attn_patterns.
  fs::create_directories(root_ / "prefix" / "bin");
  fs::create_directories(root_ / "prefix" / "share" / "duo" / "attn_patterns");
  EXPECT_TRUE(Holds(PatternRoots((root_ / "prefix" / "bin" / "duo").string()),
                    (root_ / "prefix" / "share" / "duo" / "attn_patterns").string()));
  // A bundle: everything beside the program.
  fs::create_directories(root_ / "bundle" / "attn_patterns");
  EXPECT_TRUE(Holds(PatternRoots((root_ / "bundle" / "duo").string()), (root_ / "bundle" / "attn_patterns").string()));
  // A build folder, whose own attn_patterns the build tool made, in a source tree.
  fs::create_directories(root_ / "source" / "attn_patterns");
  fs::create_directories(root_ / "source" / "build" / "launcher");
  fs::create_directories(root_ / "source" / "build" / "attn_patterns");
  std::ofstream(root_ / "source" / "CMakeLists.txt") << "\n";
  EXPECT_TRUE(Holds(PatternRoots((root_ / "source" / "build" / "launcher" / "duo").string()),
                    (root_ / "source" / "attn_patterns").string()));
  EXPECT_TRUE(PatternRoots("").empty());
  EXPECT_TRUE(fs::exists(ProgramPath()));
}

}  // namespace
}  // namespace duo
