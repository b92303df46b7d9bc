// What is proposed, and when it is not worth its rows.
#include "runtime/drafts/drafter.h"

#include <gtest/gtest.h>

#include <random>

#include "runtime/drafts/self_drafts.h"

namespace duo {
namespace {

using Tokens = std::vector<int32_t>;

Tokens Random(std::mt19937& rng, int count, int words) {
  Tokens tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(rng() % words);
  return tokens;
}

// An answer that goes on with `answer`, whose steps give what was proposed as far as it is right and one token more.
struct Written {
  int steps = 0, drafted = 0, accepted = 0;
};
Written Write(const Tokens& document, Tokens context, const Tokens& answer, const StepCosts& costs, int most) {
  DraftIndex index;
  index.Extend(document, static_cast<int64_t>(document.size()));
  Drafter drafter;
  DraftOdds odds;
  Written written;
  const QuotableText text{document, &index};
  for (size_t done = 0; done < answer.size(); ++written.steps) {
    PlannedStep step{1, 1};
    const auto drafts = drafter.Propose(context, {&text, 1}, most, costs, &odds, &step);
    EXPECT_EQ(step.rows, 1 + static_cast<int>(drafts.size()));
    EXPECT_LE(static_cast<int>(drafts.size()), most);
    size_t right = 0;
    while (right < drafts.size() && done + right < answer.size() && drafts[right] == answer[done + right]) ++right;
    written.drafted += static_cast<int>(drafts.size());
    written.accepted += static_cast<int>(right);
    const size_t taken = std::min(right + 1, answer.size() - done);
    context.insert(context.end(), answer.begin() + done, answer.begin() + done + taken);
    done += taken;
  }
  return written;
}

TEST(Drafter, AQuotedPassageComesManyTokensAStep) {
  std::mt19937 rng(1);
  const Tokens document = Random(rng, 5000, 500);
  const Tokens question(document.begin() + 1000, document.begin() + 1004);
  const Tokens answer(document.begin() + 1004, document.begin() + 1204);
  const StepCosts costs(0.1);
  const Written written = Write(document, question, answer, costs, kMostDrafts);
  EXPECT_LE(written.steps, 30);
  EXPECT_GE(written.accepted, 170);
  EXPECT_LE(Write(document, question, answer, costs, 3).steps, 60);
}

TEST(Drafter, AnAnswerThatRepeatsItselfIsDraftedFromItself) {
  std::mt19937 rng(2);
  const Tokens line = Random(rng, 20, 500);
  Tokens answer;
  for (int i = 0; i < 10; ++i) answer.insert(answer.end(), line.begin(), line.end());
  EXPECT_LE(Write(Random(rng, 300, 500), {1, 2, 3}, answer, StepCosts(0.1), kMostDrafts).steps, 50);
}

TEST(Drafter, WhereMatchesSayNothingAboutWhatFollowsFewRowsAreSpent) {
  std::mt19937 rng(3);
  // Any three words stand somewhere in the document, before a random one.
  const Tokens document = Random(rng, 20000, 12), answer = Random(rng, 2000, 12);
  const Written written = Write(document, {1, 2, 3}, answer, StepCosts(0.2), kMostDrafts);
  EXPECT_LT(written.drafted, 100);
  EXPECT_GE(written.steps, 1950);
}

TEST(Drafter, RowsThatCostAsMuchAsStepsAreNotSpent) {
  std::mt19937 rng(4);
  const Tokens document = Random(rng, 3000, 500);
  const Tokens question(document.begin(), document.begin() + 4), answer(document.begin() + 4, document.begin() + 204);
  StepCosts costs(0.1);
  for (int i = 0; i < 400; ++i) {
    for (int rows : {1, 2, 4, 8, 16}) costs.Measured(rows, 0.01 * rows);
  }
  EXPECT_NEAR(costs.Of(16), 16, 2);
  EXPECT_EQ(Write(document, question, answer, costs, kMostDrafts).drafted, 0);
}

TEST(StepCosts, FollowWhatIsMeasuredWhateverTheContextCosts) {
  StepCosts costs(0.5);
  double one = 0.01;
  for (int i = 0; i < 300; ++i, one *= 1.01) {
    costs.Measured(1, one);
    costs.Measured(7, 1.4 * one);
  }
  EXPECT_NEAR(costs.Of(8), 1.4, 0.1);
  costs.Measured(8, 100 * one);  // something else took the machine
  EXPECT_LT(costs.Of(8), 1.7);
}

struct Guesses {
  double seconds = 0;  // where a plain step takes one
  double right = 0;
};

// Where it took code to be loaded, guesses would look as good as free.
TEST(StepCosts, AreNotThoseOfASlowFirstStep) {
  StepCosts costs(0.5);
  costs.Measured(1, 0.2);
  costs.Measured(8, 0.0014);
  costs.Measured(2, 0.0012);
  EXPECT_LT(costs.one(), 0.0015);
  for (int i = 0; i < 30; ++i) costs.Measured(1, 0.001);
  EXPECT_NEAR(costs.one(), 0.001, 1e-4);
}

// Tokens for each second of an answer that may guess in these ways.
double RateWithGuesses(const std::vector<Guesses>& kinds, int tokens) {
  StepCosts costs(0.06);
  GuessCosts guess_costs;
  SelfDrafts self;
  std::mt19937 rng(1);
  double seconds = 0;
  int drawn = 0;
  for (; drawn < tokens;) {
    const auto [kind, count] = self.Choose(kMostDrafts, {true, kinds.size() > 1}, costs, guess_costs);
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
    const auto [kind, count] = self.Choose(kMostDrafts, {self.WantsLists(), true}, costs, guess_costs);
    ASSERT_GT(count, 0);
    self.Learn(kind, count, kind == GuessKind::kEnds ? count : 0);
    taken += kind == GuessKind::kLists ? 1 : 0;
    wanted += self.WantsLists() ? 1 : 0;
  }
  EXPECT_GE(taken, 3);
  EXPECT_LE(taken, 5);
  EXPECT_LE(wanted, 10);
}

}  // namespace
}  // namespace duo
