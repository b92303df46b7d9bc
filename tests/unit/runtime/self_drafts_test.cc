// What the model guesses by itself: when it is worth it, and which kind of rows guesses.
#include "runtime/drafts/self_drafts.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace duo {
namespace {

struct Guesses {
  double seconds = 0;  // where a plain step takes one
  double right = 0;
};

// Tokens for each second of an answer that may guess in these ways.
double RateWithGuesses(const std::vector<Guesses>& kinds, int tokens) {
  StepCosts costs(0.06);
  GuessCosts guess_costs;
  SelfDrafts self;
  std::mt19937 rng(1);
  double seconds = 0;
  int drawn = 0;
  for (; drawn < tokens;) {
    const auto [kind, count] = self.Choose(
        kMostDrafts, {MayGuessBy::kNow, kinds.size() > 1 ? MayGuessBy::kNow : MayGuessBy::kNo}, costs, guess_costs);
    EXPECT_LE(count, kMostDrafts);
    const Guesses& of = kinds[static_cast<int>(kind)];
    for (int i = 0; i < count; ++i) guess_costs[static_cast<int>(kind)].Measured(of.seconds, 1);
    int accepted = 0;
    while (accepted < count && static_cast<double>(rng() % 1000) < 1000 * of.right) ++accepted;
    seconds += count * of.seconds + costs.Of(count + 1);
    self.Learn(kind, count, accepted);
    self.Drawn(accepted + 1);
    drawn += accepted + 1;
  }
  return drawn / seconds;
}
double RateWithGuesses(double guess, double right, int tokens) { return RateWithGuesses({{guess, right}}, tokens); }

TEST(SelfDrafts, AreMadeWhileTheyPay) {
  EXPECT_GT(RateWithGuesses(0.3, 0.95, 3000), 1.6);
  EXPECT_GT(RateWithGuesses(0.15, 0.95, 3000), 2.3);
  EXPECT_GT(RateWithGuesses(0.3, 0.95, 3000), RateWithGuesses(0.3, 0.7, 3000));
}

// Too dear, or wrong: the answer keeps its pace.
TEST(SelfDrafts, RestWhereTheyDoNotPay) {
  EXPECT_GT(RateWithGuesses(1, 1, 5000), 0.98);
  EXPECT_GT(RateWithGuesses(0.9, 0.8, 5000), 0.98);
  EXPECT_GT(RateWithGuesses(0.4, 0.2, 5000), 0.98);
  EXPECT_GT(RateWithGuesses(1.5, 0.3, 5000), 0.98);  // by a model that is dearer than the one that answers
  EXPECT_GT(RateWithGuesses({{0.9, 0.8}, {0.4, 0.2}}, 5000), 0.98);
}

TEST(SelfDrafts, ShortAnswersHaveNone) {
  SelfDrafts self;
  EXPECT_FALSE(self.on());
  EXPECT_EQ(self.Choose(kMostDrafts, StepCosts(0.06), GuessCosts()).tokens, 0);
  self.Drawn(16);
  EXPECT_GT(self.Choose(kMostDrafts, StepCosts(0.06), GuessCosts()).tokens, 0);
}

TEST(SelfDrafts, AreOfTheKindThatPaysMore) {
  const Guesses lists = {0.45, 0.95}, ends = {0.3, 0.9}, wrong = {0.3, 0.3}, dear = {0.9, 0.95};
  EXPECT_GT(RateWithGuesses({lists, wrong}, 5000), 0.95 * RateWithGuesses(0.45, 0.95, 5000));
  EXPECT_GT(RateWithGuesses({dear, ends}, 5000), 0.95 * RateWithGuesses(0.3, 0.9, 5000));
  EXPECT_GT(RateWithGuesses({lists, ends}, 5000), 0.93 * RateWithGuesses(0.3, 0.9, 5000));
}

// A list costs the row that makes it.
TEST(SelfDrafts, WantListsWhileTheyAreTheKindAndNowAndThen) {
  const StepCosts costs(0.06);
  GuessCosts guess_costs;
  for (int i = 0; i < 50; ++i) guess_costs[1].Measured(0.1, 1);
  SelfDrafts self;
  self.Drawn(16);
  EXPECT_TRUE(self.WantsLists());
  int wanted = 0, taken = 0;
  for (int i = 0; i < 200; ++i) {
    const auto [kind, count] = self.Choose(
        kMostDrafts, {self.WantsLists() ? MayGuessBy::kNow : MayGuessBy::kNo, MayGuessBy::kNow}, costs, guess_costs);
    ASSERT_GT(count, 0);
    self.Learn(kind, count, kind == GuessKind::kEnds ? count : 0);
    taken += kind == GuessKind::kLists ? 1 : 0;
    wanted += self.WantsLists() ? 1 : 0;
  }
  EXPECT_GE(taken, 3);
  EXPECT_LE(taken, 5);
  EXPECT_LE(wanted, 10);
}

constexpr MayGuessBy kNo = MayGuessBy::kNo, kAfterRow = MayGuessBy::kAfterRow, kNow = MayGuessBy::kNow;

// Rounds, up to `most`, until `kind` was chosen four times one after another. right: of so many guesses by a kind.
template <typename Right>
int RoundsUntil(SelfDrafts& self, GuessKind wanted, int most, const Right& right) {
  const StepCosts costs(0.06);
  int chosen = 0;
  for (int round = 1; round <= most; ++round) {
    const auto [kind, count] = self.Choose(kMostDrafts, {kNow, kNow, kNo}, costs, GuessCosts());
    EXPECT_GT(count, 0);
    self.Learn(kind, count, right(kind, count));
    chosen = kind == wanted ? chosen + 1 : 0;
    if (chosen == 4) return round;
  }
  return most + 1;
}

TEST(SelfDrafts, AreOfAnotherKindSoonAfterItHasBecomeBetter) {
  SelfDrafts self;
  self.Drawn(16);
  const auto of = [](GuessKind good) {
    return [good](GuessKind kind, int count) { return kind == good ? count : count / 2; };
  };
  EXPECT_LE(RoundsUntil(self, GuessKind::kEnds, 100, of(GuessKind::kEnds)), 6);
  for (int round = 0; round < 200; ++round) RoundsUntil(self, GuessKind::kEnds, 1, of(GuessKind::kEnds));
  EXPECT_LE(RoundsUntil(self, GuessKind::kLists, 100, of(GuessKind::kLists)), 70);
  EXPECT_LE(RoundsUntil(self, GuessKind::kEnds, 100, of(GuessKind::kEnds)), 70);
}

// Where lists are to be made first, ends do not take the place of the row that makes them.
TEST(SelfDrafts, ARowMakesListsWhereTheyPayOrAreDue) {
  const StepCosts costs(0.06);
  SelfDrafts self;
  self.Drawn(16);
  EXPECT_EQ(self.Choose(4, {kAfterRow, kNow, kNo}, costs, GuessCosts()).kind, GuessKind::kEnds);
  self.Learn(GuessKind::kEnds, 4, 4);
  EXPECT_TRUE(self.WantsLists());
  EXPECT_EQ(self.Choose(4, {kAfterRow, kNow, kNo}, costs, GuessCosts()).tokens, 0) << "lists were never tried";
  EXPECT_TRUE(self.WantsLists());
  EXPECT_EQ(self.Choose(4, {kNow, kNow, kNo}, costs, GuessCosts()).kind, GuessKind::kLists);
  self.Learn(GuessKind::kLists, 4, 1);
  for (int round = 0; round < 40; ++round) {
    ASSERT_EQ(self.Choose(4, {kAfterRow, kNow, kNo}, costs, GuessCosts()).kind, GuessKind::kEnds) << round;
    self.Learn(GuessKind::kEnds, 4, 4);
    ASSERT_FALSE(self.WantsLists());
  }
}

// Such a row is not spent again and again where lists hold everything.
TEST(SelfDrafts, ListsThatLeaveNothingOutAreNotAskedForBeforeLong) {
  const StepCosts costs(0.06);
  SelfDrafts self;
  self.Drawn(16);
  int rows = 0;
  for (int step = 0; step < 480; ++step) {
    EXPECT_EQ(self.Choose(4, {kAfterRow, kNo, kNo}, costs, GuessCosts()).tokens, 0);
    if (!self.WantsLists()) continue;
    ++rows;
    self.LeftNothingOut(GuessKind::kLists);
  }
  EXPECT_GE(rows, 9);
  EXPECT_LE(rows, 11);
}

// Lists are right as often as the ends, and cheaper to visit, but the rows that make them take longer.
TEST(SelfDrafts, ListsPayForTheRowsThatMakeThem) {
  for (const double making : {0.0, 2.0}) {
    SelfDrafts self;
    self.Drawn(16);
    GuessCosts guess;
    for (int i = 0; i < 50; ++i) {
      guess[0].Measured(0.2, 1);
      guess[1].Measured(0.22, 1);
      guess[0].MadeLists(1.1 + making, 1.1, 1);
    }
    int lists = 0;
    for (int round = 0; round < 40; ++round) {
      const auto [kind, count] = self.Choose(4, {kNow, kNow, kNo}, StepCosts(0.06), guess);
      self.Learn(kind, count, count);
      lists += kind == GuessKind::kLists ? 1 : 0;
    }
    EXPECT_EQ(lists > 30, making == 0) << lists;
    EXPECT_EQ(lists<3, making> 0) << lists;
  }
}

// A round that was not checked says nothing: its kind is still to be tried.
TEST(SelfDrafts, OnlyWhatWasCheckedCountsAsTried) {
  const StepCosts costs(0.06);
  SelfDrafts self;
  self.Drawn(16);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(self.Choose(4, {kNow, kNow, kNo}, costs, GuessCosts()).kind, GuessKind::kEnds);
  }
  self.Learn(GuessKind::kEnds, 2, 2);
  EXPECT_EQ(self.Choose(4, {kNow, kNow, kNo}, costs, GuessCosts()).kind, GuessKind::kLists);
}

}  // namespace
}  // namespace duo
