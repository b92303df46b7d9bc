#include "runtime/identify/identify_evaluate.h"

#include <gtest/gtest.h>

namespace duo {
namespace {

TEST(ScoreAnswer, CountsWordsInTheirPlace) {
  RecallCount count = ScoreAnswer(" kilo Tango, echo.\n", "kilo tango echo");
  EXPECT_EQ(count.found, 1);
  EXPECT_DOUBLE_EQ(count.word_share(), 1);
  count = ScoreAnswer("kilo echo echo and more", "kilo tango echo");
  EXPECT_EQ(count.found, 0);
  EXPECT_DOUBLE_EQ(count.word_share(), 2.0 / 3);
  EXPECT_EQ(ScoreAnswer("tango kilo", "kilo tango").word_share(), 0);
  EXPECT_EQ(ScoreAnswer("4021131", "402113").found, 0);
  EXPECT_EQ(ScoreAnswer("402113.\nQuestion", "402113").found, 1);
  EXPECT_EQ(ScoreAnswer("", "402113").found, 0);
}

TEST(ScoreAnswer, CountsAddUp) {
  RecallCount sum = Sum({ScoreAnswer("a b", "a b"), ScoreAnswer("a c", "a b")});
  EXPECT_EQ(sum.asked, 2);
  EXPECT_EQ(sum.found, 1);
  EXPECT_DOUBLE_EQ(sum.share(), 0.5);
  EXPECT_DOUBLE_EQ(sum.word_share(), 0.75);
  EXPECT_EQ(RecallCount().share(), 0);
}

}  // namespace
}  // namespace duo
