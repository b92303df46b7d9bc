// What is proposed, and when it is not worth its rows.
#include "runtime/drafts/drafter.h"

#include <gtest/gtest.h>

#include <random>

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

}  // namespace
}  // namespace duo
