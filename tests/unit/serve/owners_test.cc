// Whose sessions are whose, and who may do what: the same for every transport, because the calls check it.
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/serve/service_fixture.h"

namespace duo {
namespace {

const char kAnna[] = "anna-has-this-token", kAnnaNew[] = "anna-has-a-new-token", kBert[] = "bert-has-this-token",
           kBoss[] = "the-boss-has-this-token", kGauge[] = "the-gauge-has-this-token",
           kNobody[] = "an-unnamed-old-token";

class Owners : public ServiceFixture {
 protected:
  void SetUp() override {
    ServiceFixture::SetUp();
    std::filesystem::create_directories(scratch_);
    Write(std::string(kAnna) + " anna\n" + kBert + " bert user\n" + kBoss + " boss admin\n" + kGauge +
          " gauge metrics\n# unnamed\n" + kNobody + "\n");
    options_.token_file = file_();
    options_.save_dir = (scratch_ / "saved").string();
  }
  std::string file_() const { return (scratch_ / "tokens").string(); }
  void Write(const std::string& text) {
    std::ofstream(file_()) << text;
    chmod(file_().c_str(), 0600);
  }
  void As(const std::string& token) { caller_.authorization = "Bearer " + token; }
  std::vector<std::string> List() {
    Awaited<std::vector<SessionView>> listed;
    StartList(context(), caller_, listed.Finish());
    std::vector<std::string> names;
    const auto views = listed.Wait();
    EXPECT_TRUE(views.ok()) << views.status();
    for (const SessionView& view : *views) names.push_back(view.id + " of " + view.owner);
    return names;
  }
  absl::Status Save(const std::string& id) {
    Awaited<SaveDone> saved;
    StartSave(context(), caller_, {id}, saved.Finish());
    return saved.Wait().status();
  }
  absl::Status Restore(const std::string& id) {
    Awaited<SaveDone> restored;
    StartRestore(context(), caller_, {id, "", 0}, restored.Finish());
    return restored.Wait().status();
  }
  absl::Status Ask(const std::string& id) {
    AskClient client;
    auto job = StartAsk(client, {.session_id = id, .text = "x", .max_new_tokens = 1});
    return client.Wait();
  }
  // Every call that names a session, by one who may not.
  void ExpectHidden(const std::string& id) {
    const auto hidden = [&](const absl::Status& status, const char* what) {
      EXPECT_EQ(status, absl::NotFoundError("there is no session " + id)) << what;
    };
    hidden(Get(id).status(), "Get");
    hidden(Ask(id), "Ask");
    hidden(Append(id, "text"), "Append");
    hidden(Save(id), "Save");
    hidden(Restore(id), "Restore");
    hidden(Close(id, true), "Close");
    Awaited<SessionView> pinned;
    StartPin(context(), caller_, {id, true}, pinned.Finish());
    EXPECT_TRUE(absl::IsPermissionDenied(pinned.Wait().status())) << "the server's life is its admin's";
    Awaited<SessionView> forked, rewound;
    StartFork(context(), caller_, {id, "copy"}, forked.Finish());
    hidden(forked.Wait().status(), "Fork");
    StartRewind(context(), caller_, {id, 0}, rewound.Finish());
    hidden(rewound.Wait().status(), "Rewind");
  }
};

TEST_F(Owners, AnotherOwnersSessionIsNotThere) {
  Serve();
  As(kAnna);
  ASSERT_TRUE(Create("doc").ok());
  ASSERT_TRUE(Append("doc", Text(40, 1)).ok());
  EXPECT_EQ(Get("doc")->owner, "anna");
  As(kNobody);
  ASSERT_TRUE(Create("old").ok());
  EXPECT_EQ(List(), std::vector<std::string>{"old of default"});
  As(kBert);
  EXPECT_TRUE(List().empty());
  ExpectHidden("doc");
  EXPECT_EQ(Create("doc").status().code(), absl::StatusCode::kAlreadyExists);
  As(kAnna);
  EXPECT_TRUE(Ask("doc").ok());
  EXPECT_EQ(List(), std::vector<std::string>{"doc of anna"});
  As(kBoss);
  EXPECT_EQ(List(), (std::vector<std::string>{"doc of anna", "old of default"}));
  EXPECT_TRUE(Ask("doc").ok());
}

TEST_F(Owners, TheNameIsKeptOnDiskTheTokenIsNot) {
  Serve();
  As(kAnna);
  ASSERT_TRUE(Create("doc").ok());
  ASSERT_TRUE(Append("doc", Text(40, 1)).ok());
  ASSERT_TRUE(Save("doc").ok());
  ASSERT_TRUE(Close("doc").ok());
  As(kBert);
  EXPECT_TRUE(List().empty());
  ExpectHidden("doc");
  for (const auto& file : std::filesystem::recursive_directory_iterator(scratch_ / "saved")) {
    if (!file.is_regular_file()) continue;
    std::ifstream in(file.path(), std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(in)), {});
    EXPECT_EQ(text.find(kAnna), std::string::npos) << file.path();
  }
  // A rotated token keeps its name's sessions, over a restart.
  server_ = nullptr;
  Write(std::string(kAnnaNew) + " anna\n" + kBert + " bert\n");
  Serve();
  As(kAnna);
  EXPECT_EQ(Get("doc").status().code(), absl::StatusCode::kUnauthenticated);
  As(kAnnaNew);
  EXPECT_EQ(List(), std::vector<std::string>{"doc of anna"});
  EXPECT_TRUE(Restore("doc").ok());
  EXPECT_TRUE(Ask("doc").ok());
  As(kBert);
  ExpectHidden("doc");
}

TEST_F(Owners, EachCallerHasLimitsThatAnothersWorkDoesNotCountIn) {
  options_.caller = {.sessions = 2, .calls = 2, .tokens = 100};
  Serve();
  const auto refused = [](const absl::Status& status, const char* flag) {
    EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
    EXPECT_NE(std::string(status.message()).find(flag), std::string::npos) << status;
  };
  As(kAnna);
  ASSERT_TRUE(Create("first").ok());
  ASSERT_TRUE(Create("second").ok());
  refused(Create("third").status(), "--max-caller-sessions");
  ASSERT_TRUE(Append({{.session_id = "first", .tokens = std::vector<int32_t>(60, 5)}}).ok());
  refused(Append({{.session_id = "second", .tokens = std::vector<int32_t>(60, 5)}}), "--max-caller-tokens");
  EXPECT_EQ(Get("second")->tokens, 0);
  ASSERT_TRUE(Save("first").ok());
  Awaited<SessionView> forked;
  StartFork(context(), caller_, {"first", "copy"}, forked.Finish());
  refused(forked.Wait().status(), "--max-caller-sessions");

  AskClient running[2], one_more;
  std::shared_ptr<AskJob> jobs[2];
  for (int i = 0; i < 2; ++i) {
    jobs[i] =
        StartAsk(running[i], {.session_id = "first", .text = "x", .max_new_tokens = 400, .ignore_end_tokens = true});
    running[i].WaitForMessages(1);
  }
  auto refused_job = StartAsk(one_more, {.session_id = "first", .text = "x", .max_new_tokens = 1});
  refused(one_more.Wait(), "--max-caller-queue");
  As(kBert);
  ASSERT_TRUE(Create("his").ok());
  ASSERT_TRUE(Append({{.session_id = "his", .tokens = std::vector<int32_t>(60, 5)}}).ok());
  EXPECT_TRUE(Ask("his").ok());
  for (int i = 0; i < 2; ++i) jobs[i]->Cancel();
  for (int i = 0; i < 2; ++i) running[i].Wait().IgnoreError();

  As(kAnna);
  ASSERT_TRUE(Close("second").ok());
  ASSERT_TRUE(Close("first").ok());
  EXPECT_TRUE(Restore("first").ok());
  EXPECT_TRUE(Ask("first").ok());
}

TEST_F(Owners, RolesSayWhatMayBeDone) {
  Serve();
  const auto drain = [&] {
    Awaited<DrainResult> drained;
    StartDrain(context(), caller_, {}, drained.Finish());
    return drained.Wait().status().code();
  };
  As(kAnna);
  EXPECT_EQ(drain(), absl::StatusCode::kPermissionDenied);
  EXPECT_GE(Stats().calls, 0);
  As(kGauge);
  EXPECT_GE(Stats().calls, 0);
  EXPECT_EQ(Create("doc").status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(Ask("doc").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(Append("doc", "x").code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(Tokenize("x").status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(drain(), absl::StatusCode::kPermissionDenied);
  As(kBoss);
  EXPECT_EQ(drain(), absl::StatusCode::kOk);
}

TEST_F(Owners, TokensAreReadAgainWholeOrNotAtAll) {
  Serve();
  As(kBert);
  EXPECT_TRUE(List().empty());
  for (const std::string bad : {"", "# none\n", "short\n", "a-token-of-some-length a/name\n"}) {
    Write(std::string(bad.empty() || bad[0] == '#' ? "" : std::string(kAnnaNew) + " anna\n") + bad);
    server_->Reload();
    As(kBert);
    EXPECT_TRUE(List().empty());  // the old ones are known still
    As(kAnnaNew);
    EXPECT_EQ(Get("x").status().code(), absl::StatusCode::kUnauthenticated) << bad;
  }
  Write(std::string(kAnnaNew) + " anna\n");
  server_->Reload();
  As(kAnnaNew);
  EXPECT_TRUE(List().empty());
  As(kBert);
  EXPECT_EQ(Get("x").status().code(), absl::StatusCode::kUnauthenticated);
}

TEST(TokenFiles, LinesAreATokenANameAndARole) {
  const std::string file =
      (std::filesystem::path(testing::TempDir()) / ("duo_tokens_" + std::to_string(getpid()))).string();
  const auto load = [&](const std::string& text) {
    std::ofstream(file) << text;
    chmod(file.c_str(), 0600);
    return TokenSet::Load(file);
  };
  const auto refused = [&](const std::string& text, const std::string& what) {
    const absl::Status status = load(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(std::string(status.message()).find(what), std::string::npos) << status;
    EXPECT_EQ(std::string(status.message()).find("secret"), std::string::npos) << status;
  };
  const absl::StatusOr<TokenSet> set =
      load("# a comment\n\n  secret-of-sixteen-1\tanna  admin \r\nsecret-of-sixteen-2 bert\nsecret-of-sixteen-3\n");
  ASSERT_TRUE(set.ok()) << set.status();
  EXPECT_EQ(set->size(), 3u);
  EXPECT_EQ(set->Find("Bearer secret-of-sixteen-1")->owner, "anna");
  EXPECT_EQ(set->Find("Bearer secret-of-sixteen-1")->role, Role::kAdmin);
  EXPECT_EQ(set->Find("Bearer secret-of-sixteen-2")->role, Role::kUser);
  EXPECT_EQ(set->Find("Bearer secret-of-sixteen-3")->owner, "default");
  EXPECT_EQ(set->Find("Bearer secret-of-sixteen-4"), nullptr);
  EXPECT_EQ(set->Find("secret-of-sixteen-1"), nullptr);
  refused("secret-of-sixteen-1 anna root\n", ":1: a role is");
  refused("\nsecret-of-sixteen-1 an/na\n", ":2: a name has");
  refused("secret-of-sixteen-1 anna user more\n", "found more");
  refused("secret-of-sixteen-1 anna\nsecret-of-sixteen-1 bert\n", ":2: this token stands");
  refused("secret\n", ":1: expected a token");
  std::filesystem::remove(file);
}

TEST(Exposure, TokensInClearAreNoProtectionOfAPublicAddress) {
  EXPECT_TRUE(CheckExposure("--listen", "127.0.0.1:1", false, false, false).ok());
  EXPECT_TRUE(CheckExposure("--listen", "0.0.0.0:1", true, false, false).ok());
  EXPECT_TRUE(CheckExposure("--listen", "0.0.0.0:1", false, true, true).ok());
  const absl::Status clear = CheckExposure("--listen", "0.0.0.0:1", false, true, false);
  EXPECT_NE(std::string(clear.message()).find("tokens"), std::string::npos) << clear;
  EXPECT_FALSE(CheckExposure("--listen", "0.0.0.0:1", false, false, false).ok());
}

}  // namespace
}  // namespace duo
