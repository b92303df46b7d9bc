// Steps of up to kExactRows rows give a row the same bits alone and in company: attention over pages and over rings,
// and linear layers. And what a step wrote behind a position is taken back by going on from that position, as long as
// the ring has slack for it. CPU only.
#include <algorithm>

#include "devices.h"
#include "kernels/attention.h"
#include "kernels/row_cuts.h"
#include "test_weight.h"

namespace duo {
namespace {

struct ExactCase {
  KvFormat format = KvFormat::kF32;
  int head_dim = 64, sink = 5, recent = 70, window = 0;
};

// One sequence of one paged and one streaming head, read step by step.
class OneSequence {
 public:
  static constexpr int kTokens = 330, kGroup = 2;

  OneSequence(Device& device, const ExactCase& c, int slack) : device_(device), c_(c) {
    shape_.head_dim = c.head_dim;
    shape_.group = kGroup;
    shape_.kv_heads = 2;
    std::mt19937 rng(7);
    given_ = Normal(rng, int64_t{kTokens} * shape_.qkv_cols());
    pages_.page = {c.format, c.head_dim};
    pages_.num_heads = 1;
    page_memory_ = Allocate(device, kPages * pages_.page.page_bytes());
    pages_.base = page_memory_.as<uint8_t>();
    pages_.head_stride = kPages * pages_.page.page_bytes();
    pages_.window = c.window;
    std::vector<int32_t> table(kPages);
    for (int i = 0; i < kPages; ++i) table[i] = kPages - 1 - i;
    table_ = Upload(device, table);
    pages_.tables = table_.as<int32_t>();
    pages_.table_stride = kPages;
    rings_.format = RingFormat(c.format);
    rings_.head_dim = c.head_dim;
    rings_.num_heads = 1;
    rings_.first_head = 1;
    rings_.sink = c.sink;
    rings_.recent = c.recent;
    rings_.window = c.window;
    rings_.slack = slack;
    rings_.ring_stride = rings_.ring_bytes();
    ring_memory_ = Allocate(device, rings_.ring_bytes());
    rings_.base = ring_memory_.as<uint8_t>();
  }

  // Rows [history, history + rows) in one step, the last `wrong` of them with other values. Returns what each attended
  // to.
  std::vector<std::vector<float>> Step(int history, int rows, int wrong = 0) {
    const int cols = shape_.qkv_cols(), out_cols = shape_.q_cols();
    std::vector<float> qkv(given_.begin() + int64_t{history} * cols, given_.begin() + int64_t{history + rows} * cols);
    for (int64_t i = int64_t{rows - wrong} * cols; i < int64_t{rows} * cols; ++i) qkv[i] = 3 - qkv[i];
    SeqSpan span;
    span.num_rows = rows;
    span.history = history;
    const std::vector<int32_t> row_seq(rows, 0);
    SeqBatch batch;
    batch.spans = batch.host_spans = &span;
    batch.row_seq = row_seq.data();
    batch.num_seqs = 1;
    batch.num_rows = batch.max_rows = rows;
    batch.max_tokens = kTokens;
    Buffer memory = Upload(device_, qkv), out = Allocate(device_, 4 * rows * out_cols);
    const StepRows step{View(memory.data(), DType::kF32, rows, cols), shape_, batch};
    const View to(out.data(), DType::kF32, rows, out_cols);
    Arena scratch = Scratch(device_, std::max(DecodeScratchBytes(device_, kExactRows, kGroup, pages_, kTokens),
                                              StreamingScratchBytes(device_, rows, kGroup, rings_)));
    StoreKv(device_, step, pages_);
    RoundToRing(device_, step.qkv, shape_, rings_);
    AttendPages(device_, {to, nullptr}, step, pages_, scratch);
    AttendStreaming(device_, {to, nullptr}, step, rings_, scratch);
    StoreRings(device_, step, rings_);
    const std::vector<float> all = Download<float>(device_, out.data(), int64_t{rows} * out_cols);
    std::vector<std::vector<float>> each;
    for (int r = 0; r < rows - wrong; ++r) each.emplace_back(&all[r * out_cols], &all[(r + 1) * out_cols]);
    return each;
  }

 private:
  static constexpr int kPages = 3;
  Device& device_;
  ExactCase c_;
  HeadShape shape_;
  PagedKv pages_;
  RingKv rings_;
  std::vector<float> given_;
  Buffer page_memory_, ring_memory_, table_;
};

class ExactRows : public testing::Test {
 protected:
  std::unique_ptr<Device> device_ = Device::Cpu(kTestThreads);

  void Compare(const ExactCase& c) {
    SCOPED_TRACE(testing::Message() << Name(c.format) << " head_dim " << c.head_dim << " sink " << c.sink << " recent "
                                    << c.recent << " window " << c.window);
    std::vector<std::vector<float>> alone;
    OneSequence one(*device_, c, 0);
    for (int p = 0; p < OneSequence::kTokens; ++p) alone.push_back(one.Step(p, 1)[0]);
    OneSequence many(*device_, c, kExactRows - 1);
    std::mt19937 rng(static_cast<unsigned>(c.recent));
    for (int p = 0; p < OneSequence::kTokens;) {
      const int rows = std::min<int>(1 + static_cast<int>(rng() % kExactRows), OneSequence::kTokens - p);
      const int wrong = static_cast<int>(rng() % rows);
      for (const std::vector<float>& row : many.Step(p, rows, wrong)) {
        ASSERT_EQ(alone[p], row) << "position " << p << " in a step of " << rows << " rows";
        ++p;
      }
    }
  }
};

TEST_F(ExactRows, AttendAloneAndInCompanyAlikeAlsoBehindRowsThatWereTakenBack) {
  for (KvFormat format : {KvFormat::kF32, KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8, KvFormat::kInt4}) {
    Compare({.format = format, .recent = 150});
  }
  for (int head_dim : {2, 80, 128}) Compare({.head_dim = head_dim});
  for (const auto& [sink, recent, window] : {std::tuple(64, 150, 0), std::tuple(0, 1, 0), std::tuple(100, 63, 0),
                                             std::tuple(3, 200, 90), std::tuple(128, 64, 250)}) {
    Compare({.sink = sink, .recent = recent, .window = window});
  }
}

TEST_F(ExactRows, LinearLayersGiveARowTheSameBitsInAnyCompany) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3, DType::kI8, DType::kI4}) {
    constexpr int64_t kOuts = 77, kCols = 320;
    std::mt19937 rng(3);
    const TestWeight w = MakeWeight(*device_, dtype, kOuts, kCols, 64, true, rng);
    std::vector<float> x = Normal(rng, kExactRows * kCols);
    const auto run = [&](int first, int rows) {
      Buffer out = Allocate(*device_, 4 * rows * kOuts);
      Arena scratch = Scratch(*device_, LinearScratchBytes(*device_, rows, w.weight));
      Linear(*device_, View(out.data(), DType::kF32, rows, kOuts), View(&x[first * kCols], DType::kF32, rows, kCols),
             w.weight, scratch);
      return Download<float>(*device_, out.data(), rows * kOuts);
    };
    std::vector<float> alone;
    for (int r = 0; r < kExactRows; ++r) {
      const std::vector<float> row = run(r, 1);
      alone.insert(alone.end(), row.begin(), row.end());
    }
    for (int rows = 2; rows <= kExactRows; ++rows) {
      const std::vector<float> all = run(0, rows);
      ASSERT_TRUE(std::equal(all.begin(), all.end(), alone.begin())) << Name(dtype) << ", " << rows << " rows";
    }
  }
}

}  // namespace
}  // namespace duo
