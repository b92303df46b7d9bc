// The table of a session's states: all that it allows happens in Sessions, and
// all else ends the program.
#include "launcher/serve/sessions/state.h"

#include <gtest/gtest.h>

#include "tests/unit/serve/sessions_by_hand.h"

namespace duo {
namespace {

// A state at this place, by the shortest way there; with an append in this
// phase.
SessionState At(Place place, AppendPhase phase) {
  const bool cached = place == Place::kOpen || place == Place::kSaving;
  SessionState state(cached ? Place::kOpen : Place::kMovedOut);
  if (place == Place::kRestoring) state.To(place);
  if (phase != AppendPhase::kNone && phase != AppendPhase::kDone) {
    if (phase == AppendPhase::kStopped) {
      state.To(phase);
    } else {
      state.To(AppendPhase::kUploading);
      if (phase == AppendPhase::kReading) state.To(phase);
    }
  } else if (phase == AppendPhase::kDone) {
    state.To(phase);
  }
  if (place == Place::kSaving) state.To(place);
  return state;
}

// Matches what contains `text`, without regular expressions: GoogleTest takes those of POSIX, whose names Oniguruma's
// library defines as well, with rules of its own.
class SaysMatcher : public testing::MatcherInterface<const std::string&> {
 public:
  explicit SaysMatcher(std::string text) : text_(std::move(text)) {}
  bool MatchAndExplain(const std::string& message, testing::MatchResultListener*) const override {
    return message.find(text_) != std::string::npos;
  }
  void DescribeTo(std::ostream* out) const override { *out << "contains \"" << text_ << '"'; }

 private:
  const std::string text_;
};

testing::Matcher<const std::string&> Says(std::string_view text) {
  return testing::MakeMatcher(new SaysMatcher(std::string(text)));
}

TEST(SessionState, GoesWhereTheTableSaysAndNowhereElse) {
  for (Place place : kPlaces) {
    for (AppendPhase phase : kAppendPhases) {
      if (!Together(place, phase)) continue;
      for (Place to : kPlaces) {
        SessionState state = At(place, phase);
        if (Allowed(place, to) && Together(to, phase)) {
          state.To(to);
          EXPECT_EQ(state.place(), to);
          EXPECT_EQ(state.append(), phase);
        } else {
          // GoogleTest's own memory. NOLINTNEXTLINE(clang-analyzer-cplusplus.NewDeleteLeaks)
          EXPECT_DEATH(state.To(to), Says(Name(to))) << Name(place) << " with " << Name(phase);
        }
      }
      for (AppendPhase to : kAppendPhases) {
        SessionState state = At(place, phase);
        if (Allowed(phase, to) && Together(place, to)) {
          state.To(to);
          EXPECT_EQ(state.append(), to);
          EXPECT_EQ(state.place(), place);
        } else {
          // GoogleTest's own memory. NOLINTNEXTLINE(clang-analyzer-cplusplus.NewDeleteLeaks)
          EXPECT_DEATH(state.To(to), Says(Name(to))) << Name(place) << " with " << Name(phase);
        }
      }
    }
  }
}

TEST(SessionState, AnUploadComesAndGoesBesideTheAppend) {
  SessionState state = At(Place::kOpen, AppendPhase::kReading);
  state.UploadTo(AppendPhase::kUploading);
  EXPECT_EQ(state.append(), AppendPhase::kReading);
  EXPECT_DEATH(state.UploadTo(AppendPhase::kReading), Says("reading"));
  EXPECT_DEATH(state.UploadTo(AppendPhase::kUploading), Says("uploading"));
  state.UploadTo(AppendPhase::kNone);
  EXPECT_EQ(state.upload(), AppendPhase::kNone);
  EXPECT_DEATH(SessionState{Place::kSaving}, Says("saving"));
}

TEST_F(SessionsByHand, EveryStepOfTheTableIsTaken) {
  // open <-> saving; none -> uploading -> reading -> done -> none; an upload
  // that another takes the place of.
  ASSERT_TRUE(sessions_->Create({.id = "a", .max_tokens = 1000}).ok());
  Append("a", "one", 20);
  Run();
  ASSERT_TRUE(ended_->ok()) << *ended_;
  ASSERT_TRUE(sessions_->OpenAppend("a", "two").ok());
  ASSERT_TRUE(sessions_->OpenAppend("a", "three").ok());
  ASSERT_TRUE(Save("a").ok());
  Rewind("a", 0);

  // reading -> none; reading -> stopped -> reading; stopped -> none.
  Append("a", "", 20);
  Run();
  ASSERT_TRUE(ended_->ok());
  for (bool again : {true, false}) {
    const CallPtr call = Append("a", again ? "four" : "five", 300);
    engine_->Step();
    sessions_->Cancel(call);
    Run();
    EXPECT_EQ(ended_->code(), absl::StatusCode::kCancelled);
    if (again) {
      Append("a", "four", 300);
      Run();
      ASSERT_TRUE(ended_->ok()) << *ended_;
    } else {
      Rewind("a", 0);
    }
  }

  // A durable session whose append a crash interrupts is found again, and reads
  // on; an append that is done likewise.
  ASSERT_TRUE(sessions_->Create({.id = "durable", .max_tokens = 1000, .durable = true}).ok());
  Append("durable", "x", 400);
  while (sessions_->Get("durable")->durable_tokens == 0) {
    sessions_->Tick();
    engine_->Step();
  }
  EXPECT_FALSE(ended_.has_value());
  Append("a", "done", 20);
  Run();
  ASSERT_TRUE(Save("a").ok());
  Append("durable", "y", 400);
  while (sessions_->Get("durable")->append->tokens < 200) {
    sessions_->Tick();
    engine_->Step();
  }
  Open();
  Run();
  EXPECT_TRUE(sessions_->Get("durable")->append->done);
  EXPECT_EQ(sessions_->Get("durable")->residence, Residence::kOpen);

  // open -> moved out -> restoring -> open, and restoring -> moved out when the
  // files are gone.
  Open(/*idle_seconds=*/0.01);
  EXPECT_TRUE(AskNow("a").ok());
  WaitUntilMovedOut("a");
  std::filesystem::remove_all(scratch_ / "a");
  EXPECT_FALSE(AskNow("a").ok());
  EXPECT_EQ(sessions_->Get("a")->residence, Residence::kMovedOut);

  for (const auto& step : kPlaceSteps) {
    EXPECT_EQ(places_.count({step.from, step.to}), 1u) << Name(step.from) << " -> " << Name(step.to);
  }
  for (const auto& step : kAppendSteps) {
    EXPECT_EQ(phases_.count({step.from, step.to}), 1u) << Name(step.from) << " -> " << Name(step.to);
  }
}

}  // namespace
}  // namespace duo
