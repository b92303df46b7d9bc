// Prompts without a session: what they are told of what they share, and what of it is on disk.
#include "tests/unit/serve/sessions_by_hand.h"

namespace duo {
namespace {

class Prompts : public SessionsByHand {
 protected:
  Prompts() {
    prefixes_ = 4;
    prefix_disk_ = int64_t{1} << 30;
    kv_tokens_ = 16000;
    max_session_tokens_ = 8000;
  }
  std::vector<int32_t> Text(int count, int seed, std::vector<int32_t> text = {}) const {
    for (int i = 0; i < count; ++i) text.push_back(static_cast<int32_t>(10 + SplitMix64(seed * 100003 + i) % 200));
    return text;
  }
  struct Told {
    CallPtr call = std::make_shared<Call>();
    CachedText cached;
    std::optional<RequestResult> result;
  };
  void Begin(std::vector<int32_t> tokens, Told* told, const std::string& owner = "me", const std::string& salt = "") {
    AskEvents events;
    events.on_token = [](int32_t) { return true; };
    events.on_start = [told](const CachedText& cached) { told->cached = cached; };
    events.on_done = [told](const RequestResult& result, int64_t) { told->result = result; };
    GenerateParams params;
    params.max_new_tokens = 3;
    params.prefix = sessions_->PrefixOf(owner, salt);
    sessions_->AskAlone(told->call, std::move(tokens), params, {events});
  }
  // Until the engine and the store have nothing to do.
  void Settle() {
    for (int i = 0; i < 100000 && !(sessions_->Quiet() && engine_->stats().running == 0); ++i) Run();
  }
  CachedText AskNow(std::vector<int32_t> tokens, const std::string& owner = "me", const std::string& salt = "") {
    Told told;
    Begin(std::move(tokens), &told, owner, salt);
    Settle();
    EXPECT_TRUE(told.result.has_value() && told.result->status.ok());
    return told.cached;
  }
  // A server that is started again: the cache is empty, and what is on disk is as it was.
  void Restart() {
    Open();
    engine_->DropPrefixes();
  }
  int Saved() const {
    int saved = 0;
    for (const SessionView& view : sessions_->ListPrefixes()) saved += view.residence == Residence::kSaved;
    return saved;
  }
};

TEST_F(Prompts, WhatTheyLeaveOutlivesTheServer) {
  const std::vector<int32_t> document = Text(5000, 1);
  EXPECT_EQ(AskNow(Text(20, 2, document)).source, "");
  EXPECT_EQ(Saved(), 1);
  EXPECT_TRUE(sessions_->List().empty()) << "a prefix is no session";
  EXPECT_EQ(AskNow(Text(20, 3, document)).source, "open");
  EXPECT_EQ(Saved(), 1) << "what is on disk but for a few tokens is not written again";
  Restart();
  const CachedText told = AskNow(Text(20, 4, document));
  EXPECT_EQ(told.source, "saved");
  EXPECT_EQ(told.session, "");
  EXPECT_EQ(told.tokens, 5000);
  EXPECT_GT(told.restored_bytes, 0);
  EXPECT_EQ(AskNow(Text(20, 5, document)).source, "open");
  Restart();
  EXPECT_EQ(AskNow(Text(20, 4, document), "you").tokens, 0) << "another owner's";
  EXPECT_EQ(AskNow(Text(20, 4, document), "me", "pepper").tokens, 0) << "without this salt";
}

TEST_F(Prompts, ASessionOnDiskIsMetAndStaysThere) {
  const std::vector<int32_t> document = Text(5000, 1);
  prefix_disk_ = 0;
  Open(/*idle_seconds=*/0.05);
  ASSERT_TRUE(sessions_->Create({.id = "book", .max_tokens = 6000, .owner = "me"}).ok());
  AppendInput input = {.session_id = "book", .tokens = document};
  sessions_->ReadAppend(std::make_shared<Call>(), std::move(input),
                        {.on_progress = nullptr,
                         .on_done = [](const AppendDone& done) { EXPECT_TRUE(done.status.ok()) << done.status; }});
  Run();
  WaitUntilMovedOut("book");
  CachedText told = AskNow(Text(20, 2, document));
  EXPECT_EQ(told.source, "moved_out");
  EXPECT_EQ(told.session, "book");
  EXPECT_EQ(told.tokens, 5000);
  EXPECT_EQ(sessions_->Get("book")->residence, Residence::kMovedOut);
  ASSERT_TRUE(CloseNow("book").ok());
  engine_->DropPrefixes();
  told = AskNow(Text(20, 3, document));
  EXPECT_EQ(told.source, "saved");
  EXPECT_EQ(told.session, "book");
  EXPECT_EQ(Saved(), 0) << "without --prefix-disk nothing is written";
}

TEST_F(Prompts, WhoGoesAwayWhileATextIsBroughtBackIsTheOnlyOneThatEnds) {
  const std::vector<int32_t> document = Text(5000, 1);
  AskNow(Text(20, 2, document));
  Restart();
  Told gone, stays;
  Begin(Text(20, 3, document), &gone);
  Begin(Text(20, 4, document), &stays);
  EXPECT_EQ(sessions_->stats().calls, 2);
  sessions_->Cancel(gone.call);
  EXPECT_TRUE(gone.result.has_value() && absl::IsCancelled(gone.result->status));
  EXPECT_EQ(sessions_->stats().calls, 1);
  Settle();
  ASSERT_TRUE(stays.result.has_value());
  EXPECT_TRUE(stays.result->status.ok()) << stays.result->status;
  EXPECT_EQ(stays.cached.source, "saved");
  Restart();
  Told drained;
  Begin(Text(20, 5, document), &drained);
  EXPECT_EQ(sessions_->CancelAll(), 1);
  EXPECT_TRUE(drained.result.has_value() && absl::IsUnavailable(drained.result->status));
  Settle();
  EXPECT_EQ(sessions_->stats().calls, 0);
}

TEST_F(Prompts, WhatIsOnDiskStaysWithinItsBytes) {
  AskNow(Text(2000, 1));
  int64_t one = 0;
  for (const SessionView& view : sessions_->ListPrefixes()) one = std::max(one, view.kv_bytes);
  ASSERT_EQ(Saved(), 1);
  prefix_disk_ = 5 * one / 2;
  Open();
  for (int seed = 2; seed < 6; ++seed) {
    AskNow(Text(2000, seed));
    EXPECT_LE(Saved(), 2);
  }
  EXPECT_EQ(Saved(), 2);
  Restart();
  EXPECT_EQ(AskNow(Text(10, 9, Text(2000, 5))).source, "saved") << "the last ones are there";
  EXPECT_EQ(AskNow(Text(10, 9, Text(2000, 1))).tokens, 0);
}

TEST_F(Prompts, ASavedTextThatCannotBeReadIsReadFromThePrompt) {
  const std::vector<int32_t> document = Text(5000, 1);
  AskNow(Text(20, 2, document));
  Restart();
  for (const auto& entry : std::filesystem::recursive_directory_iterator(scratch_)) {
    if (entry.path().filename().string().find("pages") != std::string::npos)
      std::filesystem::resize_file(entry.path(), 100);
  }
  EXPECT_EQ(AskNow(Text(20, 3, document)).tokens, 0);
  EXPECT_EQ(AskNow(Text(20, 4, document)).source, "open");
}

}  // namespace
}  // namespace duo
