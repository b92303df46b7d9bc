// Several servers on one save directory: each session is held by one of them at a time, and who comes too late writes
// nothing.
#include "absl/strings/match.h"
#include "tests/equivalence/store_fixture.h"

namespace duo {
namespace {

class SharedStoreTest : public StoreFixture {
 protected:
  std::unique_ptr<SessionStore> Server(int host, const FileSystem& files, bool take_over = false) {
    StoreOptions options = Plain();
    options.files = &files;
    options.lease.host = absl::StrCat("host", host);
    options.lease.machine = absl::StrCat("machine", host);
    options.lease.process = 100 + host;
    options.lease.take_over = take_over;
    options.lease.now = [this] { return now_; };
    auto store = SessionStore::Open(kDir, golden_.model_dir, *bench_.engine, options);
    EXPECT_TRUE(store.ok()) << store.status();
    return std::move(*store);
  }
  static SavedSession Listed(SessionStore& store, const std::string& id) {
    store.Refresh();
    for (SavedSession& s : store.List()) {
      if (s.id == id) return s;
    }
    return {};
  }
  SessionId Filled(const Tokens& tokens) {
    const SessionId session = bench_.Open(500);
    bench_.Append(session, tokens);
    bench_.Run();
    return session;
  }
  void More(SessionId session, const Tokens& tokens) {
    bench_.Append(session, tokens);
    bench_.Run();
  }
  double now_ = 1000;
};

TEST_F(SharedStoreTest, ASessionIsHeldByOneServerAtATime) {
  store_.reset();
  FileSystem b_files = disk_.Files(0);  // another process of this machine
  const auto a = Server(0, files_);
  auto b = Server(0, b_files);
  const Tokens text = Text(200, 1), more = Text(20, 2);
  const SessionId session = Filled(text);
  ASSERT_TRUE(SaveIn(*a, "doc", session).ok());
  EXPECT_EQ(Listed(*b, "doc").held_by, "host host0, process 100");
  EXPECT_EQ(Listed(*a, "doc").held_by, "");
  EXPECT_EQ(b->Hold("doc").code(), absl::StatusCode::kFailedPrecondition);
  const absl::Status refused = SaveIn(*b, "doc", session, {}, true);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
  EXPECT_TRUE(absl::StrContains(refused.message(), "host host0, process 100")) << refused;
  EXPECT_FALSE(b->SetOpen("doc", true).ok());
  EXPECT_FALSE(b->RewindSaved("doc", 3, {}).ok());
  EXPECT_FALSE(b->Delete("doc").ok());
  EXPECT_EQ(b->StartRestore("doc", 500).status().code(), absl::StatusCode::kFailedPrecondition);
  auto copy = b->StartRestore("doc", 500, true);  // a copy under another name is everybody's right
  ASSERT_TRUE(copy.ok()) << copy.status();
  ASSERT_TRUE(Finish(**copy).ok());
  More((*copy)->session(), more);
  ASSERT_TRUE(SaveIn(*b, "copy", (*copy)->session()).ok());
  EXPECT_EQ(Listed(*a, "copy").held_by, "host host0, process 100");
  More(session, more);
  ASSERT_TRUE(SaveIn(*a, "doc", session).ok());

  // Given back, it is another's.
  a->Release("doc");
  EXPECT_EQ(Listed(*b, "doc").held_by, "");
  auto restored = b->StartRestore("doc", 500);
  ASSERT_TRUE(restored.ok()) << restored.status();
  ASSERT_TRUE(Finish(**restored).ok());
  More((*restored)->session(), more);
  ASSERT_TRUE(SaveIn(*b, "doc", (*restored)->session()).ok());
  EXPECT_FALSE(SaveIn(*a, "doc", session, {}, true).ok());
}

TEST_F(SharedStoreTest, AKilledServersSessionIsTakenAtOnce) {
  store_.reset();
  FileSystem b_files = disk_.Files(1);
  auto a = Server(0, files_);
  const SessionId session = Filled(Text(200, 1));
  ASSERT_TRUE(SaveIn(*a, "doc", session).ok());
  disk_.KillHost(0);  // a is a ghost from here on: whatever it does comes too late
  auto b = Server(1, b_files);
  EXPECT_EQ(Listed(*b, "doc").held_by, "");
  auto restored = b->StartRestore("doc", 500);
  ASSERT_TRUE(restored.ok()) << restored.status();
  ASSERT_TRUE(Finish(**restored).ok());
  More((*restored)->session(), Text(9, 2));
  ASSERT_TRUE(SaveIn(*b, "doc", (*restored)->session()).ok());
  More(session, Text(30, 3));
  const absl::Status late = SaveIn(*a, "doc", session);
  EXPECT_EQ(late.code(), absl::StatusCode::kFailedPrecondition) << late;
  b->Release("doc");
  EXPECT_EQ(SaveIn(*a, "doc", session).code(), absl::StatusCode::kFailedPrecondition) << "it was changed meanwhile";
  b.reset();
  a.reset();
  ASSERT_TRUE(OpenStore().ok());
  ExpectRestored("doc", Joined(Text(200, 1), Text(9, 2)));
}

TEST_F(SharedStoreTest, OverANetworkALeaseThatIsNotRenewedLapses) {
  store_.reset();
  disk_.Remove(kDir);
  disk_.network = true;
  FileSystem b_files = disk_.Files(1);
  auto a = Server(0, files_);
  auto b = Server(1, b_files);
  const Tokens text = Text(200, 1);
  const SessionId session = Filled(text);
  ASSERT_TRUE(SaveIn(*a, "doc", session).ok());
  for (int i = 0; i < 20; ++i) {  // a beats: it lives for as long as that may be
    now_ += 5;
    ASSERT_TRUE(a->Beat().ok());
    ASSERT_TRUE(b->Beat().ok());
    ASSERT_EQ(Listed(*b, "doc").held_by, "host host0, process 100");
  }
  // a is suspended in the middle of a save.
  More(session, Text(9, 2));
  auto half = a->StartSave("doc", session, {});
  ASSERT_TRUE(half.ok());
  ASSERT_TRUE((*half)->Step().ok());
  now_ += 25;
  ASSERT_TRUE(b->Beat().ok());
  EXPECT_EQ(b->Hold("doc").code(), absl::StatusCode::kFailedPrecondition) << "it may still live";
  EXPECT_FALSE((*half)->Step().ok()) << "a stops before others may begin";
  now_ += 6;
  ASSERT_TRUE(b->Beat().ok());
  EXPECT_EQ(Listed(*b, "doc").held_by, "");
  auto restored = b->StartRestore("doc", 500);
  ASSERT_TRUE(restored.ok()) << restored.status();
  ASSERT_TRUE(Finish(**restored).ok());
  More((*restored)->session(), Text(30, 3));
  ASSERT_TRUE(SaveIn(*b, "doc", (*restored)->session()).ok());
  // It wakes up. Its beats are right again, and its files are of an older generation.
  ASSERT_TRUE(a->Beat().ok());
  EXPECT_FALSE((*half)->Step().ok());
  half->reset();
  EXPECT_EQ(SaveIn(*a, "doc", session).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(b->Beat().ok());
  More((*restored)->session(), Text(5, 4));
  ASSERT_TRUE(SaveIn(*b, "doc", (*restored)->session()).ok());
  auto copy = a->StartRestore("doc", 500, true);
  ASSERT_TRUE(copy.ok()) << copy.status();
  ASSERT_TRUE(Finish(**copy).ok());
  EXPECT_EQ(*bench_.engine->Tokens((*copy)->session()), Joined(Joined(text, Text(30, 3)), Text(5, 4)));

  // A lapse that nobody used costs nothing but a new number.
  const SessionId other = Filled(Text(50, 5));
  ASSERT_TRUE(SaveIn(*a, "other", other).ok());
  now_ += 100;
  ASSERT_TRUE(a->Beat().ok());
  More(other, Text(5, 6));
  const absl::Status saved = SaveIn(*a, "other", other);
  EXPECT_TRUE(saved.ok()) << saved;
}

TEST_F(SharedStoreTest, TakeOverNeedNotWait) {
  store_.reset();
  disk_.Remove(kDir);
  disk_.network = true;
  FileSystem b_files = disk_.Files(1);
  const auto a = Server(0, files_);
  const SessionId session = Filled(Text(200, 1));
  ASSERT_TRUE(SaveIn(*a, "doc", session).ok());
  const absl::Status held = Server(1, b_files)->Hold("doc");
  EXPECT_TRUE(absl::StrContains(held.message(), "host host0, process 100")) << held;
  const auto b = Server(1, b_files, true);
  ASSERT_TRUE(b->Hold("doc").ok());
  const absl::Status late = SaveIn(*a, "doc", session);
  EXPECT_EQ(late.code(), absl::StatusCode::kFailedPrecondition) << late;
}

}  // namespace
}  // namespace duo
