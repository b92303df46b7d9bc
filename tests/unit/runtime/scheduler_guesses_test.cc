// By which rows an answer's tokens are guessed (--speculate self), over a model made by hand of which is known when
// rows that visit lists are right, when those that see the ends alone are, and what each step takes.
#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "kernels/base/splitmix64.h"
#include "kernels/list_ends.h"
#include "runtime/scheduler/scheduler.h"

namespace duo {
namespace {

constexpr int kText = 60 * kPageTokens;

// A step of one row that sees everything takes one.
struct Guessing {
  double seconds = 0.3;
  std::function<bool(int64_t drawn)> right = [](int64_t) { return true; };  // of the answer's token of that number
};

class SchedulerGuesses : public testing::Test {
 protected:
  // Rows of guesses, by what they saw.
  struct Rows {
    int lists = 0, ends = 0, all = 0;
  };

  void Make(Guessing lists, Guessing ends, bool copy = false, int list_pages = DecodeListRule::kFewestPages) {
    lists_ = std::move(lists);
    ends_ = std::move(ends);
    SchedulerOptions options;
    options.chunk = 4096;
    options.sessions = 4;
    options.drafts = kMostDrafts;
    options.row_cost = 0.06;
    options.guesses = true;
    options.draft_weights = copy;
    options.decode.target = 900;
    options.heads = options.kv_heads = 1;
    options.lists = 2;
    options.list_pages = list_pages;
    KvSizes sizes;
    sizes.pages = 2000;
    sizes.tables = 30;
    sizes.rings = 31;
    sizes.table_pages = 1000;
    sizes.ring_slack = kMostDrafts;
    scheduler_ = std::make_unique<Scheduler>(options, sizes, true, false);
  }

  // An answer of so many tokens behind a text; beside it another one to the same question, of `beside`. Returns rows by
  // what number the token behind them has, in tens.
  std::vector<Rows> Answer(int tokens, int text = kText, int beside = 0) {
    const SessionId id = *scheduler_->CreateSession(text + tokens + 10);
    begin_ = text + 2;
    rows_.assign(tokens / 10 + 1, {});
    std::vector<int32_t> document;
    for (int i = 0; i < text; ++i) document.push_back(Token(-1 - i));
    EXPECT_TRUE(scheduler_->Append(id, document, {}).ok());
    while (Step()) {
    }
    std::vector<std::vector<int32_t>> answers;
    for (const int wanted : {tokens, beside}) {
      if (wanted > 0) answers.emplace_back().reserve(wanted);
    }
    for (std::vector<int32_t>& answer : answers) {
      GenerateParams params;
      params.max_new_tokens = static_cast<int64_t>(answer.capacity());
      RequestEvents events;
      events.on_token = [&answer](int32_t token) {
        answer.push_back(token);
        return true;
      };
      EXPECT_TRUE(scheduler_->Ask(id, {1, 2}, params, events).ok());
    }
    while (Step()) {
    }
    EXPECT_EQ(answers[0].size(), tokens);
    for (const std::vector<int32_t>& answer : answers) {
      for (int i = 0; i < std::ssize(answer); ++i) EXPECT_EQ(answer[i], Token(i));
    }
    EXPECT_TRUE(scheduler_->CloseSession(id).ok());
    return rows_;
  }
  // Of the tokens [first, end).
  static Rows Sum(const std::vector<Rows>& rows, int first, int end) {
    Rows sum;
    for (int ten = first / 10; ten < end / 10; ++ten) {
      sum.lists += rows[ten].lists;
      sum.ends += rows[ten].ends;
      sum.all += rows[ten].all;
    }
    return sum;
  }

  std::unique_ptr<Scheduler> scheduler_;
  int made_ = 0;          // lists
  int visited_ = 20;      // pages that one has a row visit
  double all_row_ = 0.5;  // what a row of a copy takes that sees everything

 private:
  // Of the answer, by its number; nothing that stands twice, so that the text proposes nothing.
  static int32_t Token(int64_t number) {
    return 10 + static_cast<int32_t>(SplitMix64(static_cast<uint64_t>(number + 100'000)) % 1'000'000'000);
  }
  void MakeLists(const SeqSpan& span, StepResult* result) {
    ++made_;
    result->lists.slots.push_back(span.list);
    ListedHead head;
    head.pages = span.history / kPageTokens + 1;
    if (visited_ < head.pages) {
      head.tail = head.pages - 4;
      head.length = visited_ - 4;
    }
    result->lists.heads.push_back(head);
  }
  bool Step() {
    StepPlan plan;
    if (!scheduler_->Next(&plan)) return false;
    StepResult result;
    double seconds = 1 + 0.06 * static_cast<double>(plan.tokens.size() - 1);
    for (const SeqSpan& span : plan.spans) {
      if (span.list_use == ListUse::kChoose || span.list_use == ListUse::kChooseAgain) MakeLists(span, &result);
    }
    for (const int32_t row : plan.sample_rows) {
      const SeqSpan& span = plan.spans[plan.row_seq[row]];
      const int64_t number = plan.positions[row] + 1 - begin_;
      const bool visits = span.list_use == ListUse::kVisit;
      bool right = true;
      if (visits || plan.draft_weights != 0) {
        Rows& rows = rows_.at(number / 10);
        ++(!visits ? rows.all : span.list == kListOfEnds ? rows.ends : rows.lists);
        const Guessing& by = span.list == kListOfEnds ? ends_ : lists_;
        seconds = visits ? by.seconds : all_row_;
        right = !visits || by.right(number);
      }
      result.tokens.push_back(right ? Token(number) : 3);
    }
    scheduler_->Complete(result, 0.01 * seconds);
    return true;
  }

  Guessing lists_, ends_;
  int64_t begin_ = 0;  // the position of the answer's first token
  std::vector<Rows> rows_;
};

// Lists grow old every sixteen tokens, and the ends are always there: that is no reason to guess by them.
TEST_F(SchedulerGuesses, AreOfListsThatAreRightMoreOften) {
  Make({.seconds = 0.3}, {.seconds = 0.3, .right = [](int64_t i) { return i % 2 == 0; }});
  const Rows rows = Sum(Answer(600), 100, 600);
  EXPECT_GT(rows.lists, 9 * rows.ends) << rows.lists << " rows visited lists, " << rows.ends << " the ends";
}

TEST_F(SchedulerGuesses, AreOfEndsThatAreAsRightAndCheaper) {
  Make({.seconds = 0.4}, {.seconds = 0.2});
  const Rows rows = Sum(Answer(600), 100, 600);
  EXPECT_GT(rows.ends, 9 * rows.lists) << rows.lists << " rows visited lists, " << rows.ends << " the ends";
  EXPECT_LT(made_, 12);  // each costs
}

// What was better may become worse, and the other way round, in the middle of an answer.
TEST_F(SchedulerGuesses, FollowWhatIsRight) {
  const auto in_the_middle = [](int64_t i) { return i >= 400 && i < 900; };
  const auto mostly = [](int64_t i) { return i % 5 != 0; };
  Make({.right = [&](int64_t i) { return in_the_middle(i) || i % 3 == 0; }},
       {.right = [&](int64_t i) { return mostly(i); }});
  const std::vector<Rows> found = Answer(1500);
  const Rows before = Sum(found, 100, 400), middle = Sum(found, 600, 900), behind = Sum(found, 1100, 1500);
  EXPECT_GT(before.ends, 4 * before.lists);
  EXPECT_GT(middle.lists, 4 * middle.ends);
  EXPECT_GT(behind.ends, 4 * behind.lists);
}

// Two answers whose lists are more than half of their document read it together instead: their rows see everything.
// What that takes, and that it is always right, says nothing about lists, which serve again once one answer is left.
TEST_F(SchedulerGuesses, ThatSeeEverythingCountForNeitherListsNorEnds) {
  visited_ = 35;
  Make({.seconds = 0.3}, {.seconds = 0.3, .right = [](int64_t i) { return i % 3 != 0; }});
  const std::vector<Rows> found = Answer(900, kText, 300);
  const Rows alone = Sum(found, 400, 900), all = Sum(found, 0, 900);
  EXPECT_GT(alone.lists, 300) << alone.ends << " rows saw the ends";
  EXPECT_LT(scheduler_->stats().guess_steps - all.lists - all.ends, 30) << "rows saw everything";
}

// A copy of the weights guesses well where a text is too short for lists. Of lists that says nothing.
TEST_F(SchedulerGuesses, ByACopyThatSeesEverythingSayNothingOfLists) {
  const auto never = [](int64_t) { return false; };
  constexpr int kShort = 20;
  Make({.right = never}, {.right = never}, true, kShort + 2);
  const std::vector<Rows> found = Answer(500, kShort * kPageTokens);
  const Rows before = Sum(found, 20, 100), behind = Sum(found, 250, 500), all = Sum(found, 0, 500);
  EXPECT_GT(before.all, 40);
  EXPECT_GT(behind.all, 80);
  EXPECT_LT(all.lists + all.ends, 40);
}

}  // namespace
}  // namespace duo
