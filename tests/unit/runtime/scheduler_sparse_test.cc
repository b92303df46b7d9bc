// Texts that are read sparsely: which blocks of which steps visit lists, and with which densities. The steps are those
// of a scheduler; what audits find is made up.
#include <map>
#include <random>

#include "gtest/gtest.h"
#include "runtime/scheduler/scheduler.h"
#include "tests/unit/runtime/scheduler_step.h"

namespace duo {
namespace {

constexpr int kHeads = 6;

PrefillSparsity Setting(const std::string& name) { return *PrefillSparsityNamed(name); }

class SparseReading : public testing::Test {
 protected:
  void Make(const std::string& setting, int chunk) {
    SchedulerOptions options;
    options.chunk = chunk;
    options.sessions = 4;
    options.sparsity = Setting(setting);
    options.heads = kHeads;
    options.kv_heads = 2;
    KvSizes sizes;
    sizes.pages = 2000;
    sizes.tables = 10;
    sizes.rings = 11;
    sizes.table_pages = 1000;
    scheduler_ = std::make_unique<Scheduler>(options, sizes, true, false);
    blocks_.clear();
  }
  // Runs all steps. An audit finds that head h keeps mass_[h] at the first rung and all at the last.
  void Run() {
    StepPlan plan;
    while (scheduler_->Next(&plan)) {
      StepResult result;
      result.tokens.assign(plan.sample_rows.size(), 7);
      if (plan.kind == StepKind::kPrefill) Note(plan);
      result.audits.positions = plan.sparse.audited;
      for (size_t i = 0; i < plan.sparse.audited.size(); ++i) {
        for (int h = 0; h < kHeads; ++h) {
          PageAudit audit;
          for (int r = 0; r < plan.sparse.rungs.count; ++r) audit.mass[r] = r == 0 ? mass_[h] : 0.99;
          result.audits.heads.push_back(h == 5 ? PageAudit() : audit);  // the last one is no retrieval head
        }
      }
      scheduler_->Complete(result, 0.01);
    }
  }
  void Note(const StepPlan& plan) {
    const SeqSpan& span = plan.spans[0];
    EXPECT_GE(plan.sparse.begin, span.history * (plan.sparse.end > 0));
    EXPECT_LE(plan.sparse.end, span.history + span.num_rows);
    for (int p = plan.sparse.begin; p < plan.sparse.end; p += kBlockTokens) blocks_[p] = plan.sparse.densities;
    for (int p : plan.sparse.audited) audited_.push_back(p);
  }
  SessionId Open() { return *scheduler_->CreateSession(100'000); }
  void Append(SessionId id, int tokens, int64_t more = 0) {
    ASSERT_TRUE(scheduler_->Append(id, std::vector<int32_t>(tokens, 1), {}, more).ok());
  }

  std::unique_ptr<Scheduler> scheduler_;
  std::map<int, std::vector<int32_t>> blocks_;  // those that visited lists, by position
  std::vector<int> audited_;
  std::vector<double> mass_ = std::vector<double>(kHeads, 0.99);
};

TEST_F(SparseReading, NothingIsPlannedWhereItIsOff) {
  Make("off", 512);
  const SessionId id = Open();
  Append(id, 5000);
  Run();
  EXPECT_TRUE(blocks_.empty());
  EXPECT_FALSE(scheduler_->Get(id)->sparse.sparse());
}

TEST_F(SparseReading, WholeBlocksBeforeTheLastTokenVisitLists) {
  Make("0.25", 512);
  const SessionId id = Open();
  Append(id, 300);  // blocks 0 and 1, and 44 tokens
  Run();
  EXPECT_EQ(blocks_.size(), 2u);
  EXPECT_FALSE(scheduler_->Get(id)->sparse.sparse()) << "its lists hold everything";
  Append(id, 128 * 30 - 300);  // shares block 2 with what is there, and its last token ends block 29
  Run();
  EXPECT_EQ(blocks_.size(), 28u);
  EXPECT_EQ(blocks_.count(2 * 128), 0u);
  EXPECT_EQ(blocks_.count(29 * 128), 0u);
  EXPECT_EQ(blocks_[10 * 128], std::vector<int32_t>(kHeads, 250));
  EXPECT_EQ(scheduler_->Get(id)->sparse.setting, "0.25");
}

TEST_F(SparseReading, AnAppendInPiecesEndsWithItsLastPiece) {
  Make("0.25", 512);
  const SessionId id = Open();
  Append(id, 128 * 20, 1000);
  Run();
  EXPECT_EQ(blocks_.count(19 * 128), 1u) << "more of the same text follows";
}

// The same blocks with the same densities, whatever the chunks and what is read beside.
TEST_F(SparseReading, ChunksChangeNothing) {
  for (const char* setting : {"0.25", "auto"}) {
    std::map<int, std::vector<int32_t>> expected;
    std::vector<int> audited;
    for (const int chunk : {256, 300, 1000, 4096, 100'000}) {
      SCOPED_TRACE(testing::Message() << setting << " chunk " << chunk);
      Make(setting, chunk);
      mass_ = {0.99, 0.5, 0.99, 0.5, 0.99, 0.5};
      audited_.clear();
      const SessionId id = Open();
      Append(id, 1000);
      Append(id, 30'000);
      Run();
      if (expected.empty()) {
        expected = blocks_;
        audited = audited_;
      }
      EXPECT_EQ(blocks_, expected);
      EXPECT_EQ(audited_, audited);
    }
    EXPECT_GT(audited.size(), 5u);
    audited_ = audited;
  }
  Make("auto", 777);
  audited_.clear();
  const SessionId other = Open();
  const SessionId id = Open();
  Append(id, 9000);
  Run();
  const auto alone = blocks_;
  Make("auto", 777);
  const SessionId first = Open(), second = Open();
  EXPECT_EQ(first, other);
  Append(second, 9000);
  ASSERT_TRUE(scheduler_->Append(first, std::vector<int32_t>(60, 1), {}).ok());
  Run();
  EXPECT_EQ(blocks_, alone);
}

// A head has the least density of the ladder that kept the target in the last audits; those that no rung keeps, and all
// before the first audit, are dense.
TEST_F(SparseReading, AutoFollowsTheAudits) {
  Make("auto", 1024);
  const AuditRungs rungs = RungsOf(Setting("auto"));
  mass_ = {0.985, 0.9, 0.985, 0.985, 0.985, 0.985};
  const SessionId id = Open();
  Append(id, 90'000);
  Run();
  EXPECT_EQ(blocks_[0], std::vector<int32_t>(kHeads, kDense));
  EXPECT_EQ(blocks_[4096][0], kDense) << "lists of 2,048 tokens hold so much that nothing is known of the density";
  const std::vector<int32_t>& last = blocks_.rbegin()->second;
  EXPECT_EQ(last[0], rungs.density[0]);
  EXPECT_EQ(last[1], rungs.density[1]) << "the first rung kept less than the target";
  const SparseReport report = scheduler_->Get(id)->sparse;
  EXPECT_EQ(report.setting, "auto:0.98");
  EXPECT_GT(report.audits, 10);
  EXPECT_LT(report.density, 0.1);
  Make("auto:0.995", 1024);
  const SessionId strict = Open();
  Append(strict, 90'000);
  Run();
  EXPECT_EQ(blocks_.rbegin()->second[0], kDense) << "no rung keeps 0.995";
  EXPECT_FALSE(scheduler_->Get(strict)->sparse.sparse());
}

TEST_F(SparseReading, ForksAndRewindsKeepWhatWasRead) {
  Make("0.25", 1024);
  const SessionId id = Open();
  Append(id, 6000);
  Run();
  const SessionId fork = *scheduler_->Fork(id, 20'000);
  EXPECT_EQ(scheduler_->Get(fork)->sparse.setting, "0.25");
  EXPECT_EQ(scheduler_->Get(fork)->sparse.audits, scheduler_->Get(id)->sparse.audits);
  ASSERT_TRUE(scheduler_->Rewind(id, 3000).ok());
  EXPECT_EQ(scheduler_->Get(id)->sparse.setting, "0.25");
  EXPECT_LT(scheduler_->Get(id)->sparse.audits, scheduler_->Get(fork)->sparse.audits);
  ASSERT_TRUE(scheduler_->Rewind(id, 0).ok());
  EXPECT_EQ(scheduler_->Get(id)->sparse.setting, "off");
}

TEST(PrefillSparsity, NamesGoThereAndBack) {
  for (const char* name : {"off", "0.25", "0.005", "0.999", "auto:0.98", "auto:0.5"}) {
    const auto setting = PrefillSparsityNamed(name);
    ASSERT_TRUE(setting.has_value()) << name;
    EXPECT_EQ(Name(*setting), name);
  }
  EXPECT_EQ(Name(*PrefillSparsityNamed("auto")), "auto:0.98");
  for (const char* name : {"", "on", "0", "1", "-0.5", "1.5", "0.0005", "0.25x", "auto:", "auto:1", "auto:0", "nan"}) {
    EXPECT_FALSE(PrefillSparsityNamed(name).has_value()) << name;
  }
}

TEST(PrefillSparsity, WindowsFollowEachOtherAndHoldTheBlockThatIsAudited) {
  int64_t at = 0, last = 0;
  int count = 0;
  while (at < 1'000'000) {
    const SparseWindow window = WindowAt(at);
    ASSERT_EQ(window.begin, at);
    ASSERT_GE(window.end - window.begin, last) << "windows grow";
    ASSERT_GE(window.audited, window.begin);
    ASSERT_LE(window.audited + kBlockTokens, window.end);
    ASSERT_EQ(window.audited % kBlockTokens, 0);
    ASSERT_EQ(WindowAt(window.end - 1).begin, window.begin);
    last = window.end - window.begin;
    at = window.end;
    ++count;
  }
  EXPECT_LT(count, 80);
}

}  // namespace
}  // namespace duo
