// Room is taken by need: sessions of the default length beside each other, appends and questions that do not fit.
#include "tests/unit/serve/sessions_by_hand.h"

namespace duo {
namespace {

class SessionRoom : public SessionsByHand {
 protected:
  SessionRoom() { kv_tokens_ = max_session_tokens_ = 1280; }
};

TEST_F(SessionRoom, SeveralSessionsOfTheDefaultLengthOpenOnAnEmptyServer) {
  for (const char* id : {"first", "second"}) {
    const absl::StatusOr<SessionView> made = sessions_->Create({.id = id, .max_tokens = 0});
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_EQ(made->max_tokens, max_session_tokens_);
    EXPECT_EQ(made->reserved_tokens, 0);
  }
  Append("first", "a", 400);
  Run();
  EXPECT_TRUE(ended_->ok()) << *ended_;
  EXPECT_EQ(sessions_->Get("first")->reserved_tokens, 400);
  EXPECT_TRUE(AskNow("first").ok());
}

TEST_F(SessionRoom, WhatIsAskedForAtCreateIsKept) {
  const int64_t before = engine_->stats().pages_available;
  ASSERT_TRUE(sessions_->Create({.id = "kept", .reserved_tokens = 500}).ok());
  EXPECT_EQ(sessions_->Get("kept")->reserved_tokens, 500);
  EXPECT_EQ(engine_->stats().pages_available, before - 4);
  Append("kept", "a", 100);
  Run();
  EXPECT_EQ(engine_->stats().pages_available, before - 4);
  EXPECT_EQ(sessions_->Create({.id = "more", .reserved_tokens = 1 << 20}).status().code(),
            absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(Save("kept").ok());  // also across restarts
  ASSERT_TRUE(CloseNow("kept").ok());
  sessions_->Restore(std::make_shared<Call>(), "kept", "", 0,
                     [](const SaveDone& done) { EXPECT_TRUE(done.status.ok()); });
  Run();
  EXPECT_EQ(sessions_->Get("kept")->reserved_tokens, 500);
}

// Pages are 128 tokens; beside 1,280 there are a few more for rounding.
TEST_F(SessionRoom, AnAppendThatDoesNotFitIsRefusedWithTheNumbersAndLeavesNothing) {
  for (bool durable : {false, true}) {
    SCOPED_TRACE(durable);
    for (const char* id : {"full", "too"}) {
      ASSERT_TRUE(sessions_->Create({.id = id}).ok());
      Append(id, "a", 1200);
      Run();
      ASSERT_TRUE(ended_->ok()) << *ended_;
    }
    const int64_t spare = engine_->stats().pages_available;
    ASSERT_LT(spare * 128, max_session_tokens_);
    ASSERT_TRUE(sessions_->Create({.id = "next", .max_tokens = 0, .durable = durable}).ok());
    Append("next", "b", static_cast<int>(spare * 128 + 1));
    Run();
    ASSERT_TRUE(ended_.has_value());
    EXPECT_EQ(ended_->code(), absl::StatusCode::kResourceExhausted);
    EXPECT_NE(ended_->message().find(std::to_string(spare)), absl::string_view::npos) << *ended_;
    EXPECT_EQ(sessions_->Get("next")->tokens, 0);
    EXPECT_FALSE(sessions_->Get("next")->append.has_value());
    Append("next", "b", 128);  // as if nothing had been
    Run();
    EXPECT_TRUE(ended_->ok()) << *ended_;
    for (const char* id : {"full", "too", "next"}) ASSERT_TRUE(CloseNow(id, true).ok());
  }
}

TEST_F(SessionRoom, ADurableAppendHasRoomForAllOfItBeforeItsFirstCheckpoint) {
  ASSERT_TRUE(sessions_->Create({.id = "doc", .max_tokens = 0, .durable = true}).ok());
  const int64_t before = engine_->stats().pages_available;
  Append("doc", "a", 900);  // pieces of 128
  int64_t least = before;
  bool more = true;
  while (more) {
    more = sessions_->Tick();
    more = engine_->Step() || more;
    if (sessions_->Get("doc")->tokens > 0 && !ended_.has_value()) {
      EXPECT_EQ(sessions_->Get("doc")->reserved_tokens, 900);
    }
    least = std::min(least, engine_->stats().pages_available);
  }
  EXPECT_TRUE(ended_->ok()) << *ended_;
  EXPECT_EQ(least, before - 8);
}

}  // namespace
}  // namespace duo
