#include "runtime/engine/row_choice.h"

#include <gtest/gtest.h>

namespace duo {
namespace {

// 20 us of messages by heads, beside 80 us of work.
RowChoice ChoiceWithRowsAt(double by_rows) {
  RowChoice choice;
  choice.by_heads = 20e-6;
  choice.by_rows = by_rows;
  choice.work = 80e-6;
  choice.sum_rate = 1.5e9;
  choice.block_rate = 12e6;
  return choice;
}

TEST(RowChoice, SaysWhatTheOtherWayWouldHaveBrought) {
  const auto said = [](const RowChoice& choice, bool room) { return Describe(choice, choice.gain(), room); };
  EXPECT_EQ(said(ChoiceWithRowsAt(8e-6), true),
            "ranks share out long prompts by rows: reading should take 12.0 % less time than by heads (of a token: "
            "messages 20.0 us by heads and 8.0 us by rows, work about 80.0 us; measured just now: sums at 1.5 GB/s, "
            "blocks at 0.012 GB/s)");
  EXPECT_EQ(said(ChoiceWithRowsAt(8e-6), false).substr(0, 157),
            "ranks share out long prompts by heads: by rows reading should take 12.0 % less time, but other ranks' "
            "weights would leave no room for the longest session (of");
  EXPECT_EQ(said(ChoiceWithRowsAt(18e-6), true).substr(0, 150),
            "ranks share out long prompts by heads: by rows reading should take 2.0 % less time, where 5 % less would "
            "be worth the memory that it takes (of a token");
  EXPECT_EQ(said(ChoiceWithRowsAt(30e-6), true).substr(0, 85),
            "ranks share out long prompts by heads: by rows reading should take 10.0 % more time, ");
}

// A choice that another run of the same job need not make says why.
TEST(RowChoice, NamesTheCoresThatMessagesWaitFor) {
  RowChoice choice = ChoiceWithRowsAt(8e-6);
  EXPECT_EQ(Describe(choice, choice.gain(), true).find("cores"), std::string::npos);
  choice.on_cores = true;
  EXPECT_NE(Describe(choice, choice.gain(), true).find("ranks of one host wait for its cores"), std::string::npos);
}

}  // namespace
}  // namespace duo
