// Saved sessions: what comes back is what was saved, bit for bit; every flipped bit is found; a failure changes
// nothing.
#include "runtime/saved/session_store.h"

#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "runtime/files/crc32c.h"
#include "runtime/saved/session_names.h"
#include "tests/equivalence/engine_fixture.h"
#include "tests/support/test_scale.h"

namespace duo {
namespace {

namespace fs = std::filesystem;

class SessionStoreTest : public EngineFixture {
 protected:
  std::string dir() const { return (scratch_ / "saved").string(); }
  std::unique_ptr<SessionStore> OpenStore(Bench& bench) const {
    auto store = SessionStore::Open(dir(), golden_.model_dir, *bench.engine);
    EXPECT_TRUE(store.ok()) << store.status();
    return store.ok() ? std::move(*store) : nullptr;
  }
  static absl::Status Save(SessionStore& store, SessionId session, int64_t* written = nullptr,
                           int64_t max_tokens = 500) {
    SessionManifest meta;
    meta.max_tokens = max_tokens;
    auto job = store.StartSave("doc", session, meta);
    if (!job.ok()) return job.status();
    while (true) {
      absl::StatusOr<bool> done = (*job)->Step();
      if (!done.ok()) return done.status();
      if (!*done) continue;
      if (written != nullptr) *written = (*job)->bytes_written();
      return absl::OkStatus();
    }
  }
  static absl::StatusOr<SessionId> Restore(SessionStore& store) {
    auto job = store.StartRestore("doc", 0);
    if (!job.ok()) return job.status();
    while (true) {
      absl::StatusOr<bool> done = (*job)->Step();
      if (!done.ok()) return done.status();
      if (*done) return (*job)->session();
    }
  }
  // Saved by one engine and restored by another.
  void ExpectSameBitsWhenRestored(const EngineOptions& options, int tokens, int64_t max_tokens) const {
    Reply before;
    {
      Bench bench = Open(options);
      const SessionId session = bench.Open(max_tokens);
      bench.Append(session, Text(tokens, 1));
      before = bench.AskNow(session, Text(7, 2));
      ASSERT_TRUE(Save(*OpenStore(bench), session, nullptr, max_tokens).ok());
    }
    Bench bench = Open(options);
    const auto store = OpenStore(bench);
    const absl::StatusOr<SessionId> session = Restore(*store);
    ASSERT_TRUE(session.ok()) << session.status();
    EXPECT_EQ(bench.engine->Get(*session)->tokens, tokens);
    EXPECT_EQ(bench.engine->Get(*session)->max_tokens, max_tokens);
    EXPECT_EQ(bench.AskNow(*session, Text(7, 2)).logits, before.logits);
  }
};

TEST_F(SessionStoreTest, ARestoredSessionAnswersWithTheSameBits) {
  for (KvFormat format : {KvFormat::kF32, KvFormat::kBF16, KvFormat::kInt8, KvFormat::kInt4}) {
    SCOPED_TRACE(Name(format));
    EngineOptions options = Options();
    options.kv = format;
    fs::remove_all(dir());
    ExpectSameBitsWhenRestored(options, 333, 500);
  }
}

// More pages than are read at once.
TEST_F(SessionStoreTest, ASessionOfManyPagesAnswersWithTheSameBits) {
  GivePositions(golden_, 4096);
  EngineOptions options = Options();
  options.max_session_tokens = 3000;
  options.kv_tokens = 6400;
  ExpectSameBitsWhenRestored(options, 2700, 3000);
}

TEST_F(SessionStoreTest, ALaterSaveWritesOnlyWhatIsNewAlsoAfterARewind) {
  Bench bench = Open(Options());
  const auto store = OpenStore(bench);
  const SessionId session = bench.Open(500);
  bench.Append(session, Text(450, 1));
  bench.Run();
  int64_t whole = 0, more = 0;
  ASSERT_TRUE(Save(*store, session, &whole).ok());
  bench.Append(session, Text(20, 2));
  bench.Run();
  ASSERT_TRUE(Save(*store, session, &more).ok());
  EXPECT_LT(more, whole / 2);
  ASSERT_TRUE(bench.engine->Rewind(session, 300).ok());
  store->Rewound("doc", 300);
  bench.Append(session, Text(150, 3));
  const Reply before = bench.AskNow(session, Text(7, 4));
  ASSERT_TRUE(Save(*store, session).ok());
  const absl::StatusOr<SessionId> restored = Restore(*store);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(*bench.engine->Tokens(*restored), *bench.engine->Tokens(session));
  EXPECT_EQ(bench.AskNow(*restored, Text(7, 4)).logits, before.logits);
}

TEST_F(SessionStoreTest, RingsThatWaitForRebuildingAreRebuiltAfterTheRestore) {
  Bench bench = Open(Options());
  const auto store = OpenStore(bench);
  const SessionId session = bench.Open(500);
  bench.Append(session, Text(450, 1));
  bench.Run();
  ASSERT_TRUE(bench.engine->Rewind(session, 301).ok());
  ASSERT_TRUE(Save(*store, session).ok());
  const absl::StatusOr<SessionId> restored = Restore(*store);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(bench.AskNow(*restored, Text(9, 2)).logits, bench.AskNow(session, Text(9, 2)).logits);
}

TEST_F(SessionStoreTest, AForkIsSavedWithItsOwnLastPage) {
  Bench bench = Open(Options());
  const auto store = OpenStore(bench);
  const SessionId parent = bench.Open(400);
  bench.Append(parent, Text(200, 1));
  bench.Run();
  const absl::StatusOr<SessionId> fork = bench.engine->Fork(parent, 400);  // its last page is copied by the next step
  ASSERT_TRUE(fork.ok());
  ASSERT_TRUE(Save(*store, *fork).ok());
  const absl::StatusOr<SessionId> restored = Restore(*store);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(bench.AskNow(*restored, Text(5, 2)).logits, bench.AskNow(parent, Text(5, 2)).logits);
}

TEST_F(SessionStoreTest, EveryFlippedBitIsFoundAndNothingStaysOpen) {
  Bench bench = Open(Options());
  const auto store = OpenStore(bench);
  const SessionId session = bench.Open(500);
  bench.Append(session, Text(450, 1));
  bench.Run();
  ASSERT_TRUE(Save(*store, session).ok());
  const EngineStats before = bench.engine->stats();
  uint64_t random = 1;
  int flips = 0;
  for (const auto& entry : fs::directory_iterator(dir() + "/doc")) {
    const SavedKind kind = ParseSavedName(entry.path().filename().string()).kind;
    if (kind == SavedKind::kMarker || kind == SavedKind::kLock) continue;  // they are no part of the session
    const auto size = static_cast<int64_t>(fs::file_size(entry.path()));
    for (int i = 0; i < Scaled(40); ++i, ++flips) {
      std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
      const auto at = static_cast<int64_t>(SplitMix64(random++) % size);
      auto flip = [&] {
        file.seekg(at);
        const char byte = static_cast<char>(file.get() ^ (1 << (random % 8)));
        file.seekp(at);
        file.put(byte);
        file.flush();
      };
      flip();
      const absl::Status status = Restore(*store).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << entry.path() << " at " << at << ": " << status;
      flip();
    }
  }
  EXPECT_GE(flips, 160);
  EXPECT_EQ(bench.engine->stats().pages_available, before.pages_available);
  EXPECT_EQ(bench.engine->stats().sessions, before.sessions);
  EXPECT_TRUE(Restore(*store).ok());
}

TEST_F(SessionStoreTest, ASaveThatIsGivenUpLeavesTheFormerOne) {
  Bench bench = Open(Options());
  const auto store = OpenStore(bench);
  const SessionId session = bench.Open(500);
  bench.Append(session, Text(300, 1));
  const Reply before = bench.AskNow(session, Text(7, 2));
  ASSERT_TRUE(Save(*store, session).ok());
  bench.Append(session, Text(190, 3));
  bench.Run();
  {
    auto job = store->StartSave("doc", session, SessionManifest());
    ASSERT_TRUE(job.ok());
    ASSERT_TRUE((*job)->Step().ok());
  }
  const absl::StatusOr<SessionId> restored = Restore(*store);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(bench.engine->Get(*restored)->tokens, 300);
  EXPECT_EQ(bench.AskNow(*restored, Text(7, 2)).logits, before.logits);
}

TEST_F(SessionStoreTest, AFirstSaveThatIsGivenUpLeavesNothing) {
  Bench bench = Open(Options());
  const auto store = OpenStore(bench);
  const SessionId session = bench.Open(500);
  bench.Append(session, Text(300, 1));
  bench.Run();
  { ASSERT_TRUE(store->StartSave("doc", session, SessionManifest()).ok()); }
  EXPECT_FALSE(fs::exists(dir() + "/doc"));
  EXPECT_EQ(Restore(*store).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(SessionStoreTest, ForeignSessionsAreRefusedWithAReason) {
  {
    Bench bench = Open(Options());
    const SessionId session = bench.Open(500);
    bench.Append(session, Text(100, 1));
    bench.Run();
    ASSERT_TRUE(Save(*OpenStore(bench), session).ok());
  }
  EngineOptions other = Options();
  other.kv = KvFormat::kInt8;
  Bench int8 = Open(other);
  const absl::Status format = Restore(*OpenStore(int8)).status();
  EXPECT_EQ(format.code(), absl::StatusCode::kFailedPrecondition) << format;
  EXPECT_NE(format.message().find("f32"), absl::string_view::npos) << format;
  other = Options();
  other.attention = AttentionMode::kFull;
  Bench full = Open(other);
  EXPECT_EQ(Restore(*OpenStore(full)).status().code(), absl::StatusCode::kFailedPrecondition);

  Bench bench = Open(Options());
  const auto store = OpenStore(bench);
  SessionManifest manifest = *store->Find("doc")->manifest;
  std::string text = FormatManifest(manifest);
  text = text.substr(0, text.rfind("crc32c"));
  const std::string version_3 = absl::StrCat("\"version\":", kSessionFormatVersion);
  text.replace(text.find(version_3), version_3.size(), absl::StrCat("\"version\":", kSessionFormatVersion + 1));
  absl::StrAppendFormat(&text, "crc32c %08x\n", Crc32c(text.data(), text.size()));
  std::ofstream(dir() + "/doc/manifest", std::ios::binary) << text;
  const absl::Status version = Restore(*store).status();
  EXPECT_EQ(version.code(), absl::StatusCode::kFailedPrecondition) << version;
  EXPECT_NE(version.message().find("format version 4"), absl::string_view::npos) << version;
  manifest.fingerprint = "another";
  std::ofstream(dir() + "/doc/manifest", std::ios::binary) << FormatManifest(manifest);
  EXPECT_EQ(Restore(*store).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(SessionStoreTest, ASessionThatDoesNotFitIsRefusedWithTheNumbers) {
  EngineOptions options = Options();
  options.sessions = 3;
  Bench bench = Open(options);
  const auto store = OpenStore(bench);
  const SessionId session = bench.Open(500);
  bench.Append(session, Text(100, 1));
  bench.Run();
  ASSERT_TRUE(Save(*store, session).ok());
  std::vector<SessionId> others;
  for (int i = 0; i < 2; ++i) others.push_back(bench.Open(512));
  const absl::Status status = Restore(*store).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  ASSERT_TRUE(bench.engine->CloseSession(others[0]).ok());
  EXPECT_TRUE(Restore(*store).ok());
}

}  // namespace
}  // namespace duo
