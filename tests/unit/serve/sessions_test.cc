// What sessions do when calls meet: rewinds, questions, cancellations and saves
// of the same session at the same time.
#include "tests/unit/serve/sessions_by_hand.h"

namespace duo {
namespace {

TEST_F(SessionsByHand, AForkCannotTakeTheNameOfASavedSession) {
  ASSERT_TRUE(sessions_->Create({.id = "saved", .max_tokens = 1000}).ok());
  Append("saved", "a", 200);
  Run();
  ASSERT_TRUE(Save("saved").ok());
  ASSERT_TRUE(CloseNow("saved").ok());
  ASSERT_TRUE(sessions_->Create({.id = "other", .max_tokens = 1000}).ok());
  absl::Status forked = absl::OkStatus();
  sessions_->Fork(std::make_shared<Call>(), "other", "saved", 0,
                  [&](const absl::StatusOr<SessionView>& view) { forked = view.status(); });
  Run();
  EXPECT_EQ(forked.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(sessions_->Get("saved")->residence, Residence::kSaved);
  EXPECT_EQ(sessions_->Get("saved")->tokens, 200);
}

TEST_F(SessionsByHand, ARewindOfADurableSessionIsOnDiskBeforeItIsAnswered) {
  ASSERT_TRUE(sessions_->Create({.id = "doc", .max_tokens = 1000, .durable = true}).ok());
  Append("doc", "a", 400);
  Run();
  ASSERT_EQ(store_->Find("doc")->manifest->tokens, 400);
  int64_t on_disk = -1, durable = -1;
  sessions_->Rewind(std::make_shared<Call>(), "doc", 100, [&](const absl::StatusOr<SessionView>& view) {
    ASSERT_TRUE(view.ok()) << view.status();
    durable = view->durable_tokens;
    on_disk = store_->Find("doc")->manifest->tokens;
  });
  Run();
  EXPECT_EQ(durable, 100);
  EXPECT_EQ(on_disk, 100);
  Open();  // a crash
  EXPECT_EQ(sessions_->Get("doc")->tokens, 100);
  EXPECT_TRUE(AskNow("doc").ok());
}

// What the session was once cut to stays behind on the disk when the cut could not be written; tokens that come later
// are not those.
TEST_F(SessionsByHand, ARewindBehindOneThatWasNotWrittenLeavesNothingOnDiskThatTheSessionHasLost) {
  ASSERT_TRUE(sessions_->Create({.id = "doc", .max_tokens = 1000, .durable = true}).ok());
  Append("doc", "a", 300);
  Run();
  // A directory is in the way of the manifest.
  std::filesystem::create_directories(scratch_ / "doc" / "manifest.new");
  absl::Status cut = absl::OkStatus();
  sessions_->Rewind(std::make_shared<Call>(), "doc", 100,
                    [&](const absl::StatusOr<SessionView>& view) { cut = view.status(); });
  Run();
  ASSERT_FALSE(cut.ok());
  ASSERT_EQ(sessions_->Get("doc")->tokens, 100);
  ASSERT_EQ(store_->Find("doc")->manifest->tokens, 300);
  EXPECT_LE(sessions_->Get("doc")->durable_tokens, 100);
  std::filesystem::remove_all(scratch_ / "doc" / "manifest.new");
  GenerateParams params;
  params.max_new_tokens = 1;
  params.keep = true;
  AskEvents events;
  events.on_token = [](int32_t) { return true; };
  events.on_done = [](const RequestResult& result, int64_t) { EXPECT_TRUE(result.status.ok()) << result.status; };
  sessions_->Ask(std::make_shared<Call>(), "doc", std::vector<int32_t>(50, 5), params, std::move(events));
  Run();
  ASSERT_GT(sessions_->Get("doc")->tokens, 140);
  int64_t durable = -1;
  sessions_->Rewind(std::make_shared<Call>(), "doc", 140, [&](const absl::StatusOr<SessionView>& view) {
    ASSERT_TRUE(view.ok()) << view.status();
    durable = view->durable_tokens;
  });
  Run();
  const absl::StatusOr<SessionStore::Texts> texts = store_->ReadTexts("doc");
  ASSERT_TRUE(texts.ok()) << texts.status();
  EXPECT_EQ(texts->tokens, Tokens(100));
  EXPECT_EQ(durable, 100);
  Open();  // a crash
  EXPECT_EQ(sessions_->Get("doc")->tokens, 100);
  EXPECT_TRUE(AskNow("doc").ok());
}

TEST_F(SessionsByHand, ADurableAppendReadsItsTextOnceAndInOrder) {
  ASSERT_TRUE(sessions_->Create({.id = "doc", .max_tokens = 1000, .durable = true}).ok());
  Append("doc", "a", 400);  // in pieces of 128
  Run();
  Append("doc", "b", 200);
  Run();
  std::vector<int32_t> expected = Tokens(400), more = Tokens(200);
  expected.insert(expected.end(), more.begin(), more.end());
  const absl::StatusOr<SessionStore::Texts> texts = store_->ReadTexts("doc");
  ASSERT_TRUE(texts.ok()) << texts.status();
  EXPECT_EQ(texts->tokens, expected);
}

TEST_F(SessionsByHand, WhatTheEngineRefusesNamesTheSession) {
  for (const char* id : {"first", "doc"}) ASSERT_TRUE(sessions_->Create({.id = id, .max_tokens = 300}).ok());
  Append("doc", "a", 200);
  Run();
  const auto expect_named = [](const absl::Status& status) {
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(status.message().substr(0, 32), "session doc: the session holds 2") << status;
  };
  sessions_->Rewind(std::make_shared<Call>(), "doc", 201,
                    [&](const absl::StatusOr<SessionView>& view) { expect_named(view.status()); });
  sessions_->Fork(std::make_shared<Call>(), "doc", "fork", 100,
                  [&](const absl::StatusOr<SessionView>& view) { expect_named(view.status()); });
  AskEvents events;
  int asked = 0;
  events.on_done = [&](const RequestResult& result, int64_t) {
    ++asked;
    expect_named(result.status);
  };
  GenerateParams params;
  params.max_new_tokens = 100;
  params.keep = true;
  sessions_->Ask(std::make_shared<Call>(), "doc", {1, 2, 3}, params, std::move(events));
  Run();
  EXPECT_EQ(asked, 1);
}

TEST_F(SessionsByHand, ASessionOfAnotherModelIsListedAndReadAgainFromItsTokens) {
  for (bool durable : {false, true}) {
    SCOPED_TRACE(durable);
    const std::string id = durable ? "durable" : "plain", dir = scratch_.string() + "/" + id;
    ASSERT_TRUE(sessions_->Create({.id = id, .max_tokens = 1000, .durable = durable}).ok());
    Append(id, "a", 400);
    Run();
    ASSERT_TRUE(Save(id).ok());
    ASSERT_TRUE(CloseNow(id).ok());
    SessionManifest manifest = *ReadManifest(RealFiles(), dir);
    manifest.fingerprint = "another";
    ASSERT_TRUE(WriteAll(RealFiles(), dir + "/manifest", FormatManifest(manifest)).ok());
    store_->Refresh();
    const absl::StatusOr<SessionView> listed = sessions_->Get(id);
    ASSERT_TRUE(listed.ok()) << listed.status();
    EXPECT_EQ(listed->tokens, 400);
    EXPECT_NE(listed->unusable.find("another"), std::string::npos) << listed->unusable;
    EXPECT_EQ(listed->kv_bytes, manifest.bytes);
    absl::Status refused;
    sessions_->Restore(std::make_shared<Call>(), id, "", 0, [&](const SaveDone& done) { refused = done.status; });
    Run();
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;

    // Cancelled half-way it is as it was.
    const CallPtr call = std::make_shared<Call>();
    std::optional<absl::Status> ended;
    sessions_->Reread(call, id, "", 0, [&](const SaveDone& done) { ended = done.status; });
    sessions_->Tick();
    engine_->Step();
    sessions_->Cancel(call);
    Run();
    ASSERT_TRUE(ended.has_value());
    EXPECT_EQ(ended->code(), absl::StatusCode::kCancelled) << *ended;
    EXPECT_EQ(sessions_->Get(id)->residence, Residence::kSaved);
    EXPECT_EQ(sessions_->Get(id)->tokens, 400);

    const absl::Status read = Reread(id);
    ASSERT_TRUE(read.ok()) << read;
    EXPECT_EQ(sessions_->Get(id)->residence, Residence::kOpen);
    EXPECT_EQ(sessions_->Get(id)->tokens, 400);
    EXPECT_EQ(sessions_->Get(id)->durable_tokens, durable ? 400 : 0);
    EXPECT_EQ(store_->Find(id)->usable.ok(), durable) << "a durable one takes the old one's place at once";
    EXPECT_TRUE(AskNow(id).ok());
    ASSERT_TRUE(Save(id).ok());
    EXPECT_TRUE(store_->Find(id)->usable.ok());
    ASSERT_TRUE(CloseNow(id, true).ok());
  }
}

TEST_F(SessionsByHand, ARewindIsTheWayOutOfAStoppedAppendThatWasMovedOut) {
  Open(/*idle_seconds=*/0.01);
  for (bool durable : {false, true}) {
    SCOPED_TRACE(durable);
    const std::string id = durable ? "durable" : "plain";
    ASSERT_TRUE(sessions_->Create({.id = id, .max_tokens = 1000, .durable = durable}).ok());
    const CallPtr call = Append(id, "a", 800);
    while (sessions_->Get(id)->tokens < 200) {
      sessions_->Tick();
      engine_->Step();
    }
    sessions_->Cancel(call);
    Run();
    ASSERT_EQ(ended_->code(), absl::StatusCode::kCancelled);
    WaitUntilMovedOut(id);
    const int64_t read = engine_->stats().prefill_tokens;
    Rewind(id, 0);
    EXPECT_EQ(sessions_->Get(id)->tokens, 0);
    EXPECT_FALSE(sessions_->Get(id)->append.has_value());
    EXPECT_EQ(engine_->stats().prefill_tokens,
              read);  // not first read to its end
  }
}

TEST_F(SessionsByHand, ARewindNeedNotWaitForAQuestionThatHasItsFork) {
  ASSERT_TRUE(sessions_->Create({.id = "doc", .max_tokens = 1000}).ok());
  Append("doc", "a", 300);
  Run();
  Asked asked;
  Ask("doc", 200, &asked);
  while (asked.tokens < 3) engine_->Step();
  absl::Status rewound = absl::UnknownError("not done");
  sessions_->Rewind(std::make_shared<Call>(), "doc", 10,
                    [&](const absl::StatusOr<SessionView>& view) { rewound = view.status(); });
  EXPECT_TRUE(rewound.ok()) << rewound;
  EXPECT_FALSE(asked.ended.has_value());
  Run();
  EXPECT_TRUE(asked.ended->ok()) << *asked.ended;
  EXPECT_EQ(asked.tokens, 200);
  EXPECT_EQ(sessions_->Get("doc")->tokens, 10);
}

TEST_F(SessionsByHand, ARewindTakesItsTurnAfterAQuestionThatHasNoFork) {
  ASSERT_TRUE(sessions_->Create({.id = "busy", .max_tokens = 1000}).ok());
  ASSERT_TRUE(sessions_->Create({.id = "doc", .max_tokens = 1000}).ok());
  Append("busy", "a", 50);
  Run();
  Append("doc", "a", 300);
  Run();
  std::vector<Asked> running(4);  // all that may run at once
  for (Asked& asked : running) Ask("busy", 30, &asked);
  engine_->Step();
  Asked waits;
  Ask("doc", 2, &waits);
  absl::Status rewound = absl::UnknownError("not done");
  sessions_->Rewind(std::make_shared<Call>(), "doc", 10,
                    [&](const absl::StatusOr<SessionView>& view) { rewound = view.status(); });
  EXPECT_EQ(rewound.code(), absl::StatusCode::kUnknown);
  Run();
  EXPECT_TRUE(rewound.ok()) << rewound;
  EXPECT_TRUE(waits.ended->ok());
  EXPECT_EQ(waits.history, 300);
  EXPECT_EQ(sessions_->Get("doc")->tokens, 10);
}

TEST_F(SessionsByHand, ARewindTakesItsTurnAfterAnAppendThatIsBeingCancelled) {
  for (const char* append_id : {"", "b"}) {
    SCOPED_TRACE(append_id);
    const std::string id = std::string("doc") + append_id;
    ASSERT_TRUE(sessions_->Create({.id = id, .max_tokens = 1000}).ok());
    Append(id, "a", 50);
    Run();
    const CallPtr call = Append(id, append_id, 500);
    engine_->Step();
    absl::Status rewound = absl::UnknownError("not done");
    const auto rewind = [&] {
      sessions_->Rewind(std::make_shared<Call>(), id, 10,
                        [&](const absl::StatusOr<SessionView>& view) { rewound = view.status(); });
    };
    rewind();
    EXPECT_EQ(rewound.code(), absl::StatusCode::kFailedPrecondition);
    rewound = absl::UnknownError("not done");
    sessions_->Cancel(call);
    rewind();
    Run();
    EXPECT_TRUE(rewound.ok()) << rewound;
    EXPECT_EQ(sessions_->Get(id)->tokens, 10);
  }
}

TEST_F(SessionsByHand, AnAppendWithoutAnIdIsUndoneBesideARunningQuestion) {
  for (bool durable : {false, true}) {
    SCOPED_TRACE(durable);
    const std::string id = durable ? "durable" : "plain";
    ASSERT_TRUE(sessions_->Create({.id = id, .max_tokens = 1000, .durable = durable}).ok());
    Append(id, "a", 100);
    Run();
    Asked asked;
    Ask(id, 300, &asked);
    while (asked.tokens < 3) engine_->Step();
    const CallPtr call = Append(id, "", 500);
    while (sessions_->Get(id)->tokens < 200) {
      sessions_->Tick();
      engine_->Step();
    }
    ASSERT_FALSE(asked.ended.has_value());
    sessions_->Cancel(call);
    Run();
    EXPECT_EQ(ended_->code(), absl::StatusCode::kCancelled);
    EXPECT_TRUE(asked.ended->ok()) << *asked.ended;
    EXPECT_EQ(sessions_->Get(id)->tokens, 100);
    EXPECT_TRUE(AskNow(id).ok());
    if (durable) {
      Open();  // a crash
      Run();
      EXPECT_EQ(sessions_->Get(id)->tokens, 100);
    }
  }
}

TEST_F(SessionsByHand, ACallThatIsCancelledBeforeItGoesOnWithAnAppendLeavesItAlone) {
  ASSERT_TRUE(sessions_->Create({.id = "doc", .max_tokens = 1000}).ok());
  Append("doc", "a", 300);
  engine_->Step();
  auto late = std::make_shared<Call>();
  sessions_->Cancel(late);
  absl::Status lates = absl::UnknownError("not done");
  AppendEvents events;
  events.on_done = [&](const AppendDone& done) { lates = done.status; };
  sessions_->ReadAppend(late, {"doc", "a", {}, 0}, std::move(events));
  EXPECT_EQ(lates.code(), absl::StatusCode::kCancelled);
  EXPECT_FALSE(ended_.has_value());
  Run();
  EXPECT_TRUE(ended_->ok()) << *ended_;
}

TEST_F(SessionsByHand, ARefusedAppendLeavesNothingBehind) {
  ASSERT_TRUE(sessions_->Create({.id = "doc", .max_tokens = 100}).ok());
  for (int tokens : {0, 200}) {
    Append("doc", "big", tokens);
    Run();
    EXPECT_FALSE(ended_->ok());
    EXPECT_FALSE(sessions_->Get("doc")->append.has_value()) << tokens;
  }
  Append("doc", "big", 20);
  Run();
  EXPECT_TRUE(ended_->ok()) << *ended_;
}

TEST_F(SessionsByHand, AnAppendGoesOnAfterACheckpointThatFailedAndIsOnDiskWhenItIsDone) {
  ASSERT_TRUE(sessions_->Create({.id = "doc", .max_tokens = 1000, .durable = true}).ok());
  Append("doc", "a", 100);
  while (sessions_->Get("doc")->tokens < 100) {
    sessions_->Tick();
    engine_->Step();
  }
  // A directory is in the way of what the checkpoint is to write.
  std::filesystem::create_directories(scratch_ / "doc" / "manifest.new");
  Run();
  ASSERT_FALSE(ended_->ok());
  std::filesystem::remove_all(scratch_ / "doc" / "manifest.new");
  Append("doc", "a", 100);
  Run();
  ASSERT_TRUE(ended_->ok()) << *ended_;
  EXPECT_EQ(sessions_->Get("doc")->durable_tokens, 100);
  EXPECT_EQ(store_->Find("doc")->manifest->tokens, 100);
}

// A cache that one session reserves to the last page.
class FullCache : public SessionsByHand {
 protected:
  FullCache() {
    kv_tokens_ = 1024;
    max_session_tokens_ = 4096;
  }
};

TEST_F(FullCache, AQuestionThatCanNeverStartIsRefusedWithTheNumbers) {
  const int64_t pages = engine_->stats().pages_available, all = 128 * pages;
  ASSERT_LE(all, max_session_tokens_);
  ASSERT_TRUE(sessions_->Create({.id = "doc", .max_tokens = all, .reserved_tokens = all}).ok());
  Append("doc", "a", 300);
  Run();
  const absl::Status refused = AskNow("doc");
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_NE(refused.message().find("the cache has " + std::to_string(pages)), std::string::npos) << refused;
  ASSERT_TRUE(CloseNow("doc").ok());
  ASSERT_TRUE(sessions_->Create({.id = "less", .max_tokens = all, .reserved_tokens = all - 256}).ok());
  Append("less", "a", 300);
  Run();
  EXPECT_TRUE(AskNow("less").ok());
}

}  // namespace
}  // namespace duo
