// On GPUs, steps in which one sequence alone checks drafts: up to kAlikeRows rows, whose positions lie in one page, get
// the bits that each has in a step of its own. CPUs promise more (exact_rows_test.cc).
#include <algorithm>
#include <cmath>

#include "devices.h"
#include "kernels/alike_rows.h"
#include "kernels/row_cuts.h"
#include "test_weight.h"

namespace duo {
namespace {

class CudaChecks : public DeviceTest {};
INSTANTIATE_TEST_SUITE_P(gpu, CudaChecks, testing::Values(DeviceKind::kCuda),
                         [](const auto&) { return std::string("device"); });

struct CheckCase {
  KvFormat format;
  int head_dim, group;
};

// One sequence of two paged heads and a streaming one. `given`: qkv of its tokens, again and again.
class OneSequence {
 public:
  static constexpr int kHeads = 2, kRings = 1;

  OneSequence(Device& device, const CheckCase& c, const std::vector<float>& given, int tokens)
      : device_(device), given_(given), tokens_(tokens) {
    shape_ = ShapeOf(c);
    const int pages = tokens / kPageTokens + 1;
    pages_.page = {c.format, c.head_dim};
    pages_.num_heads = kHeads;
    pages_.head_stride = pages * pages_.page.page_bytes();
    page_memory_ = Allocate(device, kHeads * pages_.head_stride);
    pages_.base = page_memory_.as<uint8_t>();
    std::vector<int32_t> table(pages);
    for (int i = 0; i < pages; ++i) table[i] = pages - 1 - i;
    table_ = Upload(device, table);
    pages_.tables = table_.as<int32_t>();
    pages_.table_stride = pages;
    rings_.format = RingFormat(c.format);
    rings_.head_dim = c.head_dim;
    rings_.num_heads = kRings;
    rings_.first_head = kHeads;
    rings_.sink = 5;
    rings_.recent = 150;
    rings_.slack = kExactRows - 1;
    rings_.ring_stride = rings_.ring_bytes();
    ring_memory_ = Allocate(device, kRings * rings_.ring_bytes());
    rings_.base = ring_memory_.as<uint8_t>();
  }
  static HeadShape ShapeOf(const CheckCase& c) {
    HeadShape shape;
    shape.head_dim = c.head_dim;
    shape.group = c.group;
    shape.kv_heads = kHeads + kRings;
    return shape;
  }

  // Rows [history, history + rows) in one step, the last `wrong` of them with other values. Returns what each of the
  // others attended to; nothing where a step only stores.
  std::vector<std::vector<float>> Step(int history, int rows, int wrong = 0, bool attends = true) {
    const int cols = shape_.qkv_cols(), out_cols = shape_.q_cols();
    std::vector<float> qkv;
    const int64_t period = std::ssize(given_) / cols;
    for (int p = history; p < history + rows; ++p) {
      const auto row = given_.begin() + p % period * cols;
      qkv.insert(qkv.end(), row, row + cols);
    }
    for (int64_t i = int64_t{rows - wrong} * cols; i < int64_t{rows} * cols; ++i) qkv[i] = 30 - 7 * qkv[i];
    SeqSpan span;
    span.num_rows = rows;
    span.history = history;
    const std::vector<int32_t> row_seq(rows, 0);
    std::vector<int32_t> positions(rows);
    for (int i = 0; i < rows; ++i) positions[i] = history + i;
    Buffer spans = Upload(device_, std::vector<SeqSpan>{span}), seqs = Upload(device_, row_seq),
           at = Upload(device_, positions), memory = UploadAs(device_, DType::kBF16, qkv);
    SeqBatch batch;
    batch.spans = spans.as<SeqSpan>();
    batch.host_spans = &span;
    batch.row_seq = seqs.as<int32_t>();
    batch.positions = at.as<int32_t>();
    batch.num_seqs = 1;
    batch.num_rows = batch.max_rows = rows;
    batch.max_tokens = tokens_;
    StepRows step{View(memory.data(), DType::kBF16, rows, cols), shape_, batch};
    StoreKv(device_, step, pages_);
    RoundToRing(device_, step.qkv, shape_, rings_);
    std::vector<std::vector<float>> each;
    if (!attends) {
      StoreRings(device_, step, rings_);
      device_.Synchronize();
      return each;
    }
    Buffer out = Allocate(device_, 2 * rows * out_cols);
    const View to(out.data(), DType::kBF16, rows, out_cols);
    Arena scratch = Scratch(device_, std::max(DecodeScratchBytes(device_, rows, shape_.group, pages_, tokens_),
                                              StreamingScratchBytes(device_, rows, shape_.group, rings_)));
    if (StreamsBesidePages(device_, step, pages_, rings_)) {
      step.streaming = {&rings_, nullptr};
      AttendPages(device_, {to, nullptr}, step, pages_, scratch);
    } else {
      AttendPages(device_, {to, nullptr}, step, pages_, scratch);
      AttendStreaming(device_, {to, nullptr}, step, rings_, scratch);
      StoreRings(device_, step, rings_);
    }
    const std::vector<float> all = DownloadAs(device_, DType::kBF16, out.data(), int64_t{rows} * out_cols);
    for (int r = 0; r < rows - wrong; ++r) each.emplace_back(&all[r * out_cols], &all[(r + 1) * out_cols]);
    return each;
  }

 private:
  Device& device_;
  const std::vector<float>& given_;
  int tokens_;
  HeadShape shape_;
  PagedKv pages_;
  RingKv rings_;
  Buffer page_memory_, ring_memory_, table_;
};

// From `begin` on, in steps of a row each and in checks, some of whose rows are wrong and taken back.
void Compare(Device& device, const CheckCase& c, const std::vector<float>& given, int begin, int tokens) {
  SCOPED_TRACE(testing::Message() << Name(c.format) << " head_dim " << c.head_dim << " group " << c.group << " from "
                                  << begin << " on");
  OneSequence one(device, c, given, tokens), many(device, c, given, tokens);
  for (int p = 0; p < begin; p += 4096) {
    for (OneSequence* each : {&one, &many}) each->Step(p, std::min(4096, begin - p), 0, false);
  }
  std::vector<std::vector<float>> alone;
  for (int p = begin; p < tokens; ++p) {
    alone.push_back(one.Step(p, 1)[0]);
    for (float x : alone.back()) ASSERT_TRUE(std::isfinite(x));
  }
  std::mt19937 rng(static_cast<unsigned>(begin + c.group));
  for (int p = begin; p < tokens;) {
    const int most = std::min({kAlikeRows, tokens - p, kPageTokens - p % kPageTokens});
    const int rows = 1 + static_cast<int>(rng() % most), wrong = static_cast<int>(rng() % rows);
    for (const std::vector<float>& row : many.Step(p, rows, wrong)) {
      ASSERT_EQ(alone[p - begin], row) << "position " << p << " in a step of " << rows << " rows";
      ++p;
    }
  }
}

TEST_P(CudaChecks, AttendAloneAndInCompanyAlikeAlsoBehindRowsThatWereTakenBack) {
  if (device().info().capability != 90) GTEST_SKIP() << "other kernels";
  for (const auto& [head_dim, group] : {std::pair(128, 4), std::pair(64, 3), std::pair(128, 8), std::pair(64, 1)}) {
    constexpr int kMost = 9000;
    std::mt19937 rng(7);
    const std::vector<float> given =
        Normal(rng, int64_t{kMost} * OneSequence::ShapeOf({KvFormat::kBF16, head_dim, group}).qkv_cols());
    for (KvFormat format : {KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8, KvFormat::kInt4}) {
      const CheckCase c = {format, head_dim, group};
      EXPECT_TRUE(AttentionAlike(device(), head_dim, group, format));
      Compare(device(), c, given, 0, 280);
      Compare(device(), c, given, 1000, 1100);
      Compare(device(), c, given, kMost - 140, kMost);
      // So long that each warp attends to many units, one after the other, each fetched to where another lay.
      Compare(device(), c, given, 100000 - 40, 100000);
    }
  }
}

// Codes that the L2 holds come back so fast that a unit may be overwritten by the next before all its lanes have it.
TEST_P(CudaChecks, TheSameStepHasTheSameBitsHoweverOften) {
  constexpr int kTokens = 60000;
  for (const int head_dim : {128, 64}) {
    std::mt19937 rng(7);
    const CheckCase shape = {KvFormat::kBF16, head_dim, 4};
    const std::vector<float> given = Normal(rng, int64_t{4096} * OneSequence::ShapeOf(shape).qkv_cols());
    for (KvFormat format : {KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8, KvFormat::kInt4}) {
      SCOPED_TRACE(testing::Message() << Name(format) << " head_dim " << head_dim);
      OneSequence sequence(device(), {format, head_dim, 4}, given, kTokens);
      for (int p = 0; p < kTokens - 8; p += 4096) sequence.Step(p, std::min(4096, kTokens - 8 - p), 0, false);
      for (const int rows : {1, 8}) {
        const auto first = sequence.Step(kTokens - 8, rows);
        for (int again = 0; again < 40; ++again) ASSERT_EQ(first, sequence.Step(kTokens - 8, rows)) << rows << " rows";
      }
    }
  }
}

TEST_P(CudaChecks, LinearLayersGiveARowTheSameBitsInAnyCompany) {
  device().KeepRowsAlike(true);
  struct Shape {
    int64_t outs, cols;
  };
  struct Format {
    DType dtype;
    int group = 0, block = 0;
    CodeTable table = CodeTable::kNone;
  };
  // One part and several; x of a part that fits a block, and that does not for some rows or for two; ends of tiles.
  for (const auto& [outs, cols] :
       {Shape{78, 320}, Shape{300, 4096}, Shape{2112, 5824}, Shape{2118, 12352}, Shape{40, 32768}}) {
    for (const auto& [dtype, group, block, table] :
         {Format{DType::kBF16}, Format{DType::kF16}, Format{DType::kF8E4M3}, Format{DType::kI8}, Format{DType::kI4, 64},
          Format{DType::kI4, 32, 256}, Format{DType::kI8, 32}, Format{DType::kI8, 16, 256},
          Format{DType::kI4, 32, 0, CodeTable::kIq4}, Format{DType::kI4, 32, 256, CodeTable::kIq4}}) {
      if (block > 0 && cols % block != 0) continue;
      SCOPED_TRACE(testing::Message() << Name(dtype) << ":" << group << "/" << block << " " << outs << " x " << cols);
      std::mt19937 rng(3);
      const TestWeight w = table != CodeTable::kNone ? MakeTableWeight(device(), table, outs, cols, block, rng)
                           : group > 0               ? MakeGroupedWeight(device(), dtype, outs, cols, group, block, rng)
                                                     : MakeWeight(device(), dtype, outs, cols, 0, true, rng);
      ASSERT_TRUE(LinearAlike(device(), w.weight));
      const std::vector<float> x = Normal(rng, kAlikeRows * cols);
      enum Kind { kFloat, kActivation, kGated };
      for (Kind kind : {kFloat, kActivation, kGated}) {
        const int64_t width = kind == kGated ? outs / 2 : outs;
        const DType type = kind == kFloat ? DType::kF32 : DType::kBF16;
        const auto run = [&](const std::vector<float>& rows_of_x) {
          const auto rows = static_cast<int64_t>(rows_of_x.size()) / cols;
          Buffer in = UploadAs(device(), DType::kBF16, rows_of_x), out = Allocate(device(), 4 * rows * width),
                 gate_up = Allocate(device(), 2 * rows * outs);
          Arena scratch = Scratch(device(), LinearScratchBytes(device(), rows, w.weight));
          const View from(in.data(), DType::kBF16, rows, cols), to(out.data(), type, rows, width);
          if (kind == kGated) {
            LinearSwiGlu(device(), to, View(gate_up.data(), DType::kBF16, rows, outs), from, w.weight, scratch);
          } else {
            Linear(device(), to, from, w.weight, scratch);
          }
          return DownloadAs(device(), type, out.data(), rows * width);
        };
        std::vector<float> alone;
        for (int r = 0; r < kAlikeRows; ++r) {
          const std::vector<float> row = run({&x[r * cols], &x[r * cols] + cols});
          alone.insert(alone.end(), row.begin(), row.end());
        }
        for (float y : alone) ASSERT_TRUE(std::isfinite(y));
        for (int rows = 2; rows <= kAlikeRows; ++rows) {
          const std::vector<float> all = run({x.begin(), x.begin() + rows * cols});
          ASSERT_TRUE(std::equal(all.begin(), all.end(), alone.begin())) << rows << " rows, out " << kind;
        }
        // What is beside a row may be anything.
        std::vector<float> poisoned(kAlikeRows * cols, NAN);
        const int kept = kAlikeRows / 2;
        std::copy_n(&x[kept * cols], cols, &poisoned[kept * cols]);
        const std::vector<float> all = run(poisoned);
        ASSERT_TRUE(std::equal(&all[kept * width], &all[kept * width] + width, &alone[kept * width])) << "out " << kind;
      }
    }
  }
}

}  // namespace
}  // namespace duo
