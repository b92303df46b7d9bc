// The rules of the session store: what it never touches, what it writes anew, and what it need not write.
#include "absl/strings/match.h"
#include "runtime/saved/session_names.h"
#include "tests/equivalence/store_fixture.h"

namespace duo {
namespace {

using Json = nlohmann::json;

class StoreRulesTest : public StoreFixture {
 protected:
  void SetUp() override {
    StoreFixture::SetUp();
    ASSERT_TRUE(OpenStore().ok());
  }
};

TEST_F(StoreRulesTest, ForeignFilesAreNeverTouched) {
  disk_.Put("/saved/Documents/thesis.txt", "precious");
  disk_.Put("/saved/Documents/1-tokens-0", "looks like ours");
  ASSERT_TRUE(Create("Documents", Text(150, 1)).ok());
  const absl::Status saved = Save("Documents");
  EXPECT_EQ(saved.code(), absl::StatusCode::kFailedPrecondition) << saved;
  EXPECT_TRUE(absl::StrContains(saved.message(), "/saved/Documents")) << saved;
  EXPECT_FALSE(store_->Delete("Documents").ok());
  EXPECT_EQ(disk_.Names("/saved/Documents"), (std::vector<std::string>{"1-tokens-0", "thesis.txt"}));

  // In a directory of its own too: saves, failed saves and the deletion leave what is not of its form.
  ASSERT_TRUE(Create("doc", Text(150, 1)).ok());
  ASSERT_TRUE(Save("doc").ok());
  disk_.Put("/saved/doc/notes.txt", "mine");
  disk_.Put("/saved/doc/letters/mum.txt", "mine");
  Append("doc", Text(9, 2));
  ASSERT_TRUE(Save("doc").ok());
  Append("doc", Text(9, 3));
  { ASSERT_TRUE(store_->StartSave("doc", open_["doc"], {}).ok()); }
  ASSERT_TRUE(store_->Delete("doc").ok());
  EXPECT_EQ(disk_.Names("/saved/doc"), (std::vector<std::string>{".duo-session", "letters", "notes.txt"}));
  EXPECT_EQ(disk_.Text("/saved/doc/letters/mum.txt"), "mine");
  // A first save that is given up leaves them too.
  { EXPECT_TRUE(store_->StartSave("doc", open_["doc"], {}).ok()); }
  EXPECT_EQ(disk_.Text("/saved/doc/notes.txt"), "mine");
}

TEST_F(StoreRulesTest, AnotherSessionDoesNotTakeTheNameOfASavedOne) {
  const Tokens text = Text(150, 1);
  ASSERT_TRUE(Create("doc", text).ok());
  ASSERT_TRUE(Save("doc").ok());
  Crash(0);
  ASSERT_TRUE(OpenStore().ok());
  ASSERT_TRUE(Create("doc", Text(7, 2)).ok());
  const absl::Status saved = Save("doc");
  EXPECT_EQ(saved.code(), absl::StatusCode::kAlreadyExists) << saved;
  ExpectRestored("doc", text);
}

TEST_F(StoreRulesTest, WhatVanishedUnderTheServerIsWrittenAnew) {
  const Tokens text = Text(300, 1);
  Tokens all = text;
  ASSERT_TRUE(Create("doc", text).ok());
  ASSERT_TRUE(Save("doc").ok());
  uint64_t seed = 2;
  auto more = [&] {
    Append("doc", Text(9, seed));
    all = Joined(all, Text(9, seed++));
  };
  auto check = [&](const char* what) {
    SCOPED_TRACE(what);
    more();
    const absl::Status saved = Save("doc");
    ASSERT_TRUE(saved.ok()) << saved;
    const SessionId open = open_["doc"];
    auto copy = store_->StartRestore("doc", 500, true);
    ASSERT_TRUE(copy.ok()) << copy.status();
    const absl::Status restored = Finish(**copy);
    ASSERT_TRUE(restored.ok()) << restored;
    EXPECT_EQ(*bench_.engine->Tokens((*copy)->session()), all);
    EXPECT_TRUE(Same(Ask((*copy)->session()), Expected(all)));
    ASSERT_TRUE(bench_.engine->CloseSession((*copy)->session()).ok());
    open_["doc"] = open;
  };
  disk_.Remove("/saved/doc");
  check("the session's directory");
  disk_.Remove("/saved");
  check("the save directory");
  for (const std::string& name : disk_.Names("/saved/doc")) {
    const SavedKind kind = ParseSavedName(name).kind;
    if (kind == SavedKind::kMarker || kind == SavedKind::kLock) continue;
    disk_.Remove("/saved/doc/" + name);
    check(name.c_str());
  }
}

TEST_F(StoreRulesTest, FilesGoWhileASaveRunsAndItFails) {
  ASSERT_TRUE(Create("doc", Text(300, 1)).ok());
  ASSERT_TRUE(Save("doc").ok());
  Append("doc", Text(9, 2));
  auto job = store_->StartSave("doc", open_["doc"], {});
  ASSERT_TRUE(job.ok());
  ASSERT_TRUE((*job)->Step().ok());
  for (const std::string& name : disk_.Names("/saved/doc")) {
    if (ParseSavedName(name).kind == SavedKind::kPages) disk_.Remove("/saved/doc/" + name);
  }
  EXPECT_FALSE((*job)->Step().ok());
  job->reset();
  ASSERT_TRUE(Save("doc").ok());
  ExpectRestored("doc", Joined(Text(300, 1), Text(9, 2)));
}

TEST_F(StoreRulesTest, ARestoreReadsWhatItBeganWithWhileTheSessionIsSaved) {
  const Tokens text = Text(300, 1);
  ASSERT_TRUE(Create("doc", text).ok());
  ASSERT_TRUE(Save("doc").ok());
  auto copy = store_->StartRestore("doc", 500, true);
  ASSERT_TRUE(copy.ok());
  Append("doc", Text(9, 2));
  ASSERT_TRUE(Save("doc").ok());
  ASSERT_TRUE(store_->RewindSaved("doc", 140, {}).ok());
  const absl::Status restored = Finish(**copy);
  ASSERT_TRUE(restored.ok()) << restored;
  EXPECT_EQ(*bench_.engine->Tokens((*copy)->session()), text);
  EXPECT_TRUE(Same(Ask((*copy)->session()), Expected(text)));
  copy->reset();
  int rings = 0;
  for (const std::string& name : disk_.Names("/saved/doc")) rings += ParseSavedName(name).kind == SavedKind::kRings;
  EXPECT_EQ(rings, 1) << "what was kept for the restore is deleted after it";
}

TEST_F(StoreRulesTest, ARewindIsSavedWithoutThePages) {
  const Tokens text = Text(300, 1), less(text.begin(), text.begin() + 140);
  ASSERT_TRUE(Create("doc", text).ok());
  ASSERT_TRUE(Save("doc").ok());
  ASSERT_TRUE(bench_.engine->Rewind(open_["doc"], 140).ok());
  disk_.Begin();
  ASSERT_TRUE(store_->RewindSaved("doc", 140, {}).ok());
  for (const std::string& call : disk_.called()) EXPECT_FALSE(absl::StrContains(call, "-pages-")) << call;
  Crash(static_cast<int>(Cut::kAllLost));
  ASSERT_TRUE(OpenStore().ok());
  // Also while it is not open at all.
  const Tokens least(text.begin(), text.begin() + 20);
  ASSERT_TRUE(store_->RewindSaved("doc", 100, {}).ok());
  ASSERT_TRUE(store_->RewindSaved("doc", 20, {}).ok());
  ExpectRestored("doc", least);
  Append("doc", Text(200, 2));
  ASSERT_TRUE(Save("doc").ok());
  ExpectRestored("doc", Joined(least, Text(200, 2)));
}

TEST_F(StoreRulesTest, TokensAreAddedToTheirFilesAndNotWrittenAgain) {
  ASSERT_TRUE(Create("doc", Text(200, 1)).ok());
  SessionManifest meta;
  meta.append = SavedAppend{"a", 5, 200, 200, false, Text(200, 2), {}};
  meta.max_tokens = 500;
  ASSERT_TRUE(Save("doc", meta).ok());
  const Json before = ManifestJson("doc");
  for (int i = 1; i <= 3; ++i) {
    const Tokens piece = Text(200, 2);
    Append("doc", Tokens(piece.begin() + (i - 1) * 10, piece.begin() + i * 10));
    disk_.Begin();
    ASSERT_TRUE(Save("doc", meta).ok());
    for (const std::string& call : disk_.called()) {
      EXPECT_FALSE(absl::StrContains(call, "write") && absl::StrContains(call, "-append-")) << call;
    }
    const Json now = ManifestJson("doc");
    EXPECT_EQ(now["token_file"]["name"], before["token_file"]["name"]);
    EXPECT_EQ(now["token_file"]["bytes"], (200 + 10 * i) * 4);
    EXPECT_EQ(now["append"]["token_file"], before["append"]["token_file"]);
  }
  const absl::Status restored = Restore("doc");
  EXPECT_TRUE(restored.ok()) << restored;
}

TEST_F(StoreRulesTest, ListingAsksNoDiskAndManifestsAreSmall) {
  ASSERT_TRUE(Create("doc", Text(300, 1)).ok());
  for (int i = 0; i < 20; ++i) {
    Append("doc", Text(5, i));
    ASSERT_TRUE(Save("doc").ok());
  }
  EXPECT_LT(disk_.Text("/saved/doc/manifest").size(), 2000u);
  disk_.Remove("/saved");
  const std::vector<SavedSession> all = store_->List();
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].manifest->tokens, 400);
  EXPECT_TRUE(all[0].usable.ok());
  EXPECT_TRUE(store_->Exists("doc"));
  store_->Refresh();
  EXPECT_EQ(store_->List().size(), 1u) << "a directory that cannot be listed says nothing";
}

}  // namespace
}  // namespace duo
