// Answers that are written by page lists: which rows of which steps make lists, visit them or see everything. The steps
// are those of a scheduler; what lists hold is made up.
#include <map>
#include <memory>

#include "gtest/gtest.h"
#include "runtime/scheduler/pages_read.h"
#include "runtime/scheduler/scheduler.h"

namespace duo {
namespace {

constexpr int kHeads = 6, kKvHeads = 2, kTokens = 100 * kPageTokens;

class ListedAnswers : public testing::Test {
 protected:
  void Make(const std::string& setting, int lists = 2, int prefixes = 0) {
    SchedulerOptions options;
    options.chunk = 4096;
    options.sessions = 4;
    options.prefixes = prefixes;
    options.decode = *DecodeSparsityNamed(setting);
    options.heads = kHeads;
    options.kv_heads = kKvHeads;
    options.lists = lists;
    KvSizes sizes;
    sizes.pages = 2000;
    sizes.tables = 30;
    sizes.rings = 31;
    sizes.table_pages = 1000;
    scheduler_ = std::make_unique<Scheduler>(options, sizes, true, false);
  }
  SessionId Read(int tokens) {
    const SessionId id = *scheduler_->CreateSession(tokens + 100);
    EXPECT_TRUE(scheduler_->Append(id, std::vector<int32_t>(tokens, 1), {}).ok());
    Run();
    uses_.clear();
    return id;
  }
  // Queues an answer of so many tokens.
  RequestResult* Ask(SessionId id, int tokens, GenerateParams params = {}) {
    params.max_new_tokens = tokens;
    results_.push_back(std::make_unique<RequestResult>());
    RequestEvents events;
    events.on_done = [to = results_.back().get()](const RequestResult& result) { *to = result; };
    EXPECT_TRUE(scheduler_->Ask(id, {1, 2}, params, events).ok());
    return results_.back().get();
  }
  // Runs all steps. A list of each head visits visited_ pages; one that is measured kept 0.9, of one head 0.7.
  void Run() {
    StepPlan plan;
    while (scheduler_->Next(&plan)) {
      StepResult result;
      result.tokens.assign(plan.sample_rows.size(), 7);
      for (const SeqSpan& span : plan.spans) {
        uses_[span.table].push_back(span.list_use);
        if (span.list_use == ListUse::kVisit) {
          EXPECT_EQ(span.list, slots_.at(span.table));
        }
        if (span.list_use != ListUse::kChoose && span.list_use != ListUse::kChooseAgain) continue;
        EXPECT_EQ(plan.list_target, 980);
        slots_[span.table] = span.list;
        result.lists.slots.push_back(span.list);
        for (int h = 0; h < kHeads; ++h) {
          ListedHead head;
          if (h < kHeads - 1) {  // the last one is no retrieval head
            head.pages = span.history / kPageTokens + 1;
            head.tail = visited_ < head.pages ? head.pages - 4 : 0;
            head.length = head.tail > 0 ? visited_ - 4 : 0;
            if (span.list_use == ListUse::kChooseAgain) head.kept = head.least = h == 3 ? 0.7f : 0.9f;
          }
          result.lists.heads.push_back(head);
        }
      }
      scheduler_->Complete(result, 0.01);
    }
  }
  // Of the one sequence that ran since.
  std::vector<ListUse> Uses() {
    EXPECT_EQ(uses_.size(), 1);
    return uses_.begin()->second;
  }
  int Count(ListUse use) {
    int count = 0;
    for (const auto& [table, uses] : uses_) count += static_cast<int>(std::count(uses.begin(), uses.end(), use));
    return count;
  }

  std::unique_ptr<Scheduler> scheduler_;
  int visited_ = 20;
  std::map<int32_t, std::vector<ListUse>> uses_;  // by table, of each step
  std::map<int32_t, int32_t> slots_;              // by table
  std::vector<std::unique_ptr<RequestResult>> results_;
};

TEST_F(ListedAnswers, OneRowOfSixteenSeesEverythingAndMakesTheLists) {
  Make("0.98");
  const SessionId id = Read(kTokens);
  const RequestResult* result = Ask(id, 40);
  Run();
  const std::vector<ListUse> uses = Uses();  // the question, then the answer's tokens but the last
  ASSERT_EQ(uses.size(), 40);
  EXPECT_EQ(uses[0], ListUse::kNone);
  for (int i = 1; i < 40; ++i) {
    const ListUse choose = i == 1 ? ListUse::kChoose : ListUse::kChooseAgain;
    EXPECT_EQ(uses[i], (i - 1) % kDenseEvery == 0 ? choose : ListUse::kVisit) << i;
  }
  const DecodeReport& report = result->decode;
  EXPECT_EQ(report.setting, "0.98");
  EXPECT_EQ(report.listed_tokens, 36);
  EXPECT_EQ(report.choices, 3);
  EXPECT_EQ(report.audits, 2);
  EXPECT_NEAR(report.mass, (4 * 0.9 + 0.7) / 5, 1e-6);
  EXPECT_NEAR(report.least_mass, 0.7, 1e-6);
  EXPECT_EQ(report.least_layer, 1);
  EXPECT_EQ(report.least_head, 1);
  EXPECT_NEAR(report.density, 20.0 / 101, 1e-3);
  EXPECT_EQ(scheduler_->counted().decode.listed_tokens, 36);
  EXPECT_FALSE(scheduler_->Get(id)->sparse.sparse());
}

TEST_F(ListedAnswers, NothingIsPlannedWhereItIsOffOrTheTextIsShortOrTheAnswerIsKept) {
  Make("off");
  Ask(Read(kTokens), 40);
  Run();
  EXPECT_EQ(Count(ListUse::kNone), 40);
  Make("0.98");
  Ask(Read(30 * kPageTokens), 40);
  Run();
  EXPECT_EQ(Count(ListUse::kNone), 40);
  GenerateParams keep;
  keep.keep = true;
  const RequestResult* result = Ask(Read(kTokens), 40, keep);
  Run();
  EXPECT_EQ(Count(ListUse::kNone), 41);
  EXPECT_EQ(result->decode.setting, "off");
}

TEST_F(ListedAnswers, ListsThatHoldEverythingAreNotVisited) {
  Make("0.98");
  visited_ = 1000;
  const RequestResult* result = Ask(Read(kTokens), 40);
  Run();
  EXPECT_EQ(Count(ListUse::kVisit), 0);
  EXPECT_EQ(Count(ListUse::kChoose) + Count(ListUse::kChooseAgain), 3);
  EXPECT_FALSE(result->decode.sparse());
}

// Two forks read their document together, which is as many pages as 100 of one: lists pay as long as theirs are fewer.
TEST_F(ListedAnswers, ForksVisitListsWhereThatIsFewerPagesThanReadingTogether) {
  for (const int visited : {40, 60}) {
    Make("0.98");
    visited_ = visited;
    const SessionId id = Read(kTokens);
    Ask(id, 20);
    Ask(id, 20);
    Run();
    EXPECT_EQ(Count(ListUse::kVisit), visited == 40 ? 2 * 17 : 0) << visited;
  }
}

TEST_F(ListedAnswers, AnswersWithoutAPlaceForListsSeeEverything) {
  Make("0.98", 1);
  const SessionId a = Read(kTokens), b = Read(kTokens);
  const RequestResult *first = Ask(a, 20), *second = Ask(b, 20);
  Run();
  EXPECT_TRUE(first->decode.sparse());
  EXPECT_FALSE(second->decode.sparse());
  const RequestResult* third = Ask(b, 20);
  Run();
  EXPECT_TRUE(third->decode.sparse()) << "the place came back";
}

// What an answer that visited lists wrote is nobody else's to go on with.
TEST_F(ListedAnswers, APrefixEndsWhereExactTextEnds) {
  for (const char* setting : {"off", "0.98"}) {
    Make(setting, 2, 4);
    const SessionId id = *scheduler_->CreateSession(1);
    GenerateParams params;
    params.prefix.on = true;
    params.max_new_tokens = 40;
    EXPECT_TRUE(scheduler_->Ask(id, std::vector<int32_t>(kTokens, 1), params, {}).ok());
    Run();
    int64_t longest = 0;
    for (const PrefixInfo& prefix : scheduler_->Prefixes()) longest = std::max(longest, prefix.tokens);
    EXPECT_EQ(longest, kTokens + (setting == std::string("off") ? 39 : 1));
  }
}

// Two rows that read one document do not keep a third from the lists of another one.
TEST(PagesRead, RowsThatReadTogetherCountOnce) {
  PagesRead read;
  read.Sees(1, 100);
  read.Sees(1, 90);
  EXPECT_FALSE(read.visits()) << "nobody has lists";
  read.MayVisit(2, 100, 40);
  EXPECT_TRUE(read.visits());
  read.MayVisit(2, 100, 70);
  EXPECT_FALSE(read.visits()) << "together they read fewer pages without";
}

TEST(PagesRead, WhatAnotherRowReadsAnywayIsNotSaved) {
  PagesRead read;
  read.MayVisit(1, 100, 5);
  EXPECT_TRUE(read.visits());
  read.Sees(1, 99);
  EXPECT_FALSE(read.visits());
}

TEST(DecodeSparsity, NamesGoThereAndBack) {
  for (const char* name : {"off", "0.98", "0.9", "0.999"}) {
    const auto setting = DecodeSparsityNamed(name);
    ASSERT_TRUE(setting.has_value()) << name;
    EXPECT_EQ(Name(*setting), name);
  }
  EXPECT_EQ(Name(*DecodeSparsityNamed("auto")), "0.98");
  for (const char* name : {"", "on", "0", "1", "1.5", "auto:0.98", "0.9876", "nan"}) {
    EXPECT_FALSE(DecodeSparsityNamed(name).has_value()) << name;
  }
}

}  // namespace
}  // namespace duo
