// Page lists of answers: that pages are chosen by the row's true shares, that what lists kept is measured rightly, and
// that rows attend to what their lists say and to nothing else.
#include "kernels/decode_lists.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "attention_fixture.h"
#include "kernels/list_choice.h"
#include "kernels/list_ends.h"

namespace duo {
namespace {

using Rule = DecodeListRule;

constexpr int kLongest = 70 * kPageTokens;

// Lists beside a step of several sequences, whose slots are in reverse.
class ListedState : public AttentionState {
 public:
  ListedState(Device& device, const AttentionCase& c)
      : AttentionState(device, c), seqs_(static_cast<int>(c.sequences.size())) {
    lists_.slots = seqs_;
    lists_.num_heads = c.paged_heads;
    lists_.stride = ListStride(kLongest / kPageTokens);
    pages_memory_ = Allocate(device, sizeof(int32_t) * seqs_ * lists_.num_heads * lists_.stride);
    heads_memory_ = Upload(device, std::vector<ListedHead>(seqs_ * lists_.num_heads));
    lists_.pages = pages_memory_.as<int32_t>();
    lists_.heads = heads_memory_.as<ListedHead>();
    for (int s = 0; s < seqs_; ++s) spans_[s].list = SlotOf(s);
  }
  int SlotOf(int seq) const { return seqs_ - 1 - seq; }
  void Use(int seq, ListUse use, bool ends = false) {
    spans_[seq].list_use = use;
    spans_[seq].list = ends ? kListOfEnds : SlotOf(seq);
    device_spans_ = Upload(device_, spans_);
  }
  ListedHead Head(int seq, int head) {
    return Download<ListedHead>(device_, lists_.heads + lists_.at(SlotOf(seq), head), 1)[0];
  }
  std::vector<int32_t> List(int seq, int head) {
    return Download<int32_t>(device_, lists_.pages + lists_.at(SlotOf(seq), head) * lists_.stride,
                             Head(seq, head).length);
  }
  void TakeLists() { lists_ = DecodeLists(); }
  void Put(int seq, int head, const std::vector<int32_t>& list, int32_t tail) {
    const int64_t at = lists_.at(SlotOf(seq), head);
    const ListedHead made = {static_cast<int32_t>(list.size()), tail, 1};
    device_.Upload(lists_.heads + at, &made, sizeof made);
    device_.Upload(lists_.pages + at * lists_.stride, list.data(), sizeof(int32_t) * list.size());
  }
  StepRows Rows() {
    StepRows rows{View(qkv_.data(), type_, rows_, shape_.qkv_cols()), shape_, Batch()};
    rows.batch.visits_lists = rows.batch.makes_lists = true;
    return rows;
  }
  void Choose(int target) {
    const StepRows rows = Rows();
    Arena scratch = Scratch(device_, ChoosePagesScratchBytes(device_, c_.group, lists_, rows.batch.max_tokens));
    ChoosePages(device_, lists_, rows, pages_, target, scratch);
    device_.Synchronize();
  }
  void Attend() {
    const StepRows rows = Rows();
    Arena scratch =
        Scratch(device_, ListedScratchBytes(device_, rows_, c_.group, pages_, lists_, rows.batch.max_tokens));
    duo::AttendListed(device_, {View(out_.data(), type_, rows_, shape_.q_cols()), lse_.as<float>()}, rows, pages_,
                      lists_, scratch);
    device_.Synchronize();
  }
  void ExpectResult() {
    CompareRows(0, c_.paged_heads, true, [&](const SequenceCase& q, int head, int64_t p, int64_t j) {
      const auto seq = static_cast<int>(&q - c_.sequences.data());
      if (j > p || spans_[seq].list_use != ListUse::kVisit) return j <= p;
      const int64_t page = j / kPageTokens;
      if (spans_[seq].list == kListOfEnds) return page < Rule::kSinkPages || page > p / kPageTokens - Rule::kLastPages;
      if (lists_.slots == 0) return true;
      const std::vector<int32_t> list = List(seq, head);
      return j / kPageTokens >= Head(seq, head).tail || std::binary_search(list.begin(), list.end(), j / kPageTokens);
    });
  }
  // In f64: shares of the sequence's first row, [query head of the KV head][page].
  std::vector<std::vector<double>> Shares(int seq, int head) {
    const int d = c_.head_dim;
    const SeqSpan& span = spans_[seq];
    std::vector<std::vector<double>> all;
    for (int g = 0; g < c_.group; ++g) {
      const float* q = &host_qkv_[size_t(span.first_row) * shape_.qkv_cols() + (head * c_.group + g) * d];
      std::vector<double> shares(span.history / kPageTokens + 1);
      for (int j = 0; j <= span.history; ++j) {
        double score = 0;
        for (int k = 0; k < d; ++k) score += double{q[k]} * Key(seq, head, j)[k];
        shares[j / kPageTokens] += std::exp(score / std::sqrt(double(d)));
      }
      const double total = std::accumulate(shares.begin(), shares.end(), 0.0);
      for (double& share : shares) share /= total;
      all.push_back(std::move(shares));
    }
    return all;
  }
  int seqs() const { return seqs_; }
  int heads() const { return c_.paged_heads; }

 private:
  int seqs_;
  DecodeLists lists_;
  Buffer pages_memory_, heads_memory_;
};

class DecodeListsOn : public DeviceTest {
 protected:
  AttentionCase Case(const std::vector<SequenceCase>& sequences) const {
    AttentionCase c;
    if (cuda()) c.format = c.ring_format = KvFormat::kBF16;
    c.sequences = sequences;
    return c;
  }
};
INSTANTIATE_ON_DEVICES(DecodeListsOn);

// The share on `list` and from `tail` on; and without the pages that `leave_out` says.
template <typename LeaveOut>
double Kept(const std::vector<double>& shares, const std::vector<int32_t>& list, int tail, const LeaveOut& leave_out) {
  double kept = std::accumulate(shares.begin() + tail, shares.end(), 0.0);
  for (const int32_t page : list) {
    if (!leave_out(page)) kept += shares[page];
  }
  return kept;
}

// Largest of the query heads' shares, which pages are taken by.
double KeyOf(const std::vector<std::vector<double>>& shares, int page) {
  double key = 0;
  for (const auto& of : shares) key = std::max(key, of[page]);
  return key;
}

// A list of a head holds the pages of the largest shares, as many as the target needs and no more.
void ExpectFollows(const std::vector<std::vector<double>>& shares, const ListedHead& head,
                   const std::vector<int32_t>& list, int target) {
  constexpr double kSlack = 1e-4;  // of f32 logarithms of masses
  const double wanted = target / 1000.0, bin = 1.0 / ListShare::kBinsPerNat + 1e-3;
  const auto pages = static_cast<int>(shares[0].size());
  EXPECT_EQ(head.pages, pages);
  if (head.tail == 0) {  // it would have been too long: the shortest prefix by falling share that reaches the target
    EXPECT_EQ(head.length, 0);
    std::vector<int32_t> order(Rule::Tail(pages));
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int a, int b) { return KeyOf(shares, a) > KeyOf(shares, b); });
    const auto half = order.begin() + std::max(0, pages / 2 - Rule::kLastPages - Rule::kSinkPages);
    const std::vector<int32_t> shorter(order.begin(), half);
    // One bin more may have been taken than the target needs.
    const double last = KeyOf(shares, shorter.empty() ? 0 : shorter.back()) * std::exp(2 * bin);
    bool reached = true;
    for (const auto& of : shares) {
      reached &= Kept(of, shorter, Rule::Tail(pages), [&](int page) { return KeyOf(shares, page) <= last; }) > wanted;
    }
    EXPECT_FALSE(reached) << "a list of half of the pages would have done";
    return;
  }
  EXPECT_EQ(head.tail, Rule::Tail(pages));
  EXPECT_TRUE(std::is_sorted(list.begin(), list.end()));
  EXPECT_LE(2 * (static_cast<int>(list.size()) + pages - head.tail), pages);
  EXPECT_GE(static_cast<int>(list.size()) + pages - head.tail, Rule::kLeastPages);
  ASSERT_FALSE(list.empty());
  EXPECT_EQ(list[0], 0);
  double least_on = 1, most_off = 0;
  for (int page = 0; page < head.tail; ++page) {
    const double key = KeyOf(shares, page);
    if (Rule::Always(page)) continue;
    if (std::binary_search(list.begin(), list.end(), page)) {
      least_on = std::min(least_on, key);
    } else {
      most_off = std::max(most_off, key);
    }
  }
  EXPECT_LE(most_off, least_on * (1 + kSlack));
  // Without the pages of the last bin there would be too few, or some query head would have too little.
  const auto in_last = [&](int page) { return !Rule::Always(page) && KeyOf(shares, page) <= least_on * std::exp(bin); };
  const auto fewer = std::count_if(list.begin(), list.end(), [&](int page) { return !in_last(page); });
  bool needed = fewer + pages - head.tail < Rule::kLeastPages;
  for (const auto& of : shares) {
    EXPECT_GE(Kept(of, list, head.tail, [](int) { return false; }), wanted - kSlack);
    needed |= Kept(of, list, head.tail, in_last) < wanted + kSlack;
  }
  EXPECT_TRUE(needed) << "the list is longer than it has to be";
}

TEST_P(DecodeListsOn, AreTheLargestSharesThatTheTargetNeeds) {
  int listed = 0, dense = 0;
  for (const int target : {300, 600, 900}) {
    for (const auto& [group, d] : {std::pair(1, 64), {4, 64}, {3, 128}}) {
      AttentionCase c = Case({{40 * 128 + 17, 1}, {64 * 128 - 1, 1}, {50 * 128, 2}, {33 * 128, 1}});
      c.group = group;
      c.head_dim = d;
      c.seed = target + group;
      ListedState state(device(), c);
      state.StoreStep();
      for (int s = 0; s < 3; ++s) state.Use(s, ListUse::kChoose);
      state.Choose(target);
      EXPECT_EQ(state.Head(3, 0).pages, 0) << "nobody asked";
      for (int s = 0; s < 3; ++s) {
        for (int h = 0; h < state.heads(); ++h) {
          SCOPED_TRACE(testing::Message()
                       << "target " << target << " group " << group << " sequence " << s << " head " << h);
          const ListedHead head = state.Head(s, h);
          EXPECT_EQ(head.kept, -1) << "there was no list before";
          ExpectFollows(state.Shares(s, h), head, state.List(s, h), target);
          ++(head.tail > 0 ? listed : dense);
        }
      }
    }
  }
  EXPECT_GT(listed, 8);
  EXPECT_GT(dense, 8);
}

TEST_P(DecodeListsOn, WhatTheListBeforeKeptIsMeasured) {
  AttentionCase c = Case({{60 * 128 + 100, 1}, {40 * 128, 1}});
  c.group = 3;
  ListedState state(device(), c);
  state.StoreStep();
  const std::vector<int32_t> list = {0, 3, 4, 17, 30};
  state.Put(0, 0, list, 50);
  for (int s = 0; s < 2; ++s) state.Use(s, ListUse::kChooseAgain);
  state.Choose(980);
  double sum = 0, least = 1;
  for (const auto& shares : state.Shares(0, 0)) {
    const double kept = Kept(shares, list, 50, [](int) { return false; });
    sum += kept / 3;
    least = std::min(least, kept);
  }
  EXPECT_NEAR(state.Head(0, 0).kept, sum, 1e-3);
  EXPECT_NEAR(state.Head(0, 0).least, least, 1e-3);
  EXPECT_EQ(state.Head(0, 1).kept, -1) << "it saw everything before";
}

TEST_P(DecodeListsOn, RowsAttendToTheirListsForEveryFormat) {
  for (KvFormat format : kKvFormats) {
    if (format == KvFormat::kF32 && cuda()) continue;
    for (const auto& [group, d] : {std::pair(4, 64), {1, 128}, {9, 128}}) {
      SCOPED_TRACE(testing::Message() << Name(format) << " group " << group << " head_dim " << d);
      AttentionCase c = Case({{20 * 128 + 5, 1}, {300, 3}, {12 * 128 - 1, 1}, {9 * 128, 1}});
      c.format = format;
      c.group = group;
      c.head_dim = d;
      c.seed = group;
      ListedState state(device(), c);
      state.StoreStep();
      for (const int s : {0, 2, 3}) state.Use(s, ListUse::kVisit);
      state.Put(0, 0, {0, 2, 3, 4, 11}, 18);
      state.Put(0, 1, {}, 0);
      state.Put(2, 0, {0}, 8);
      state.Put(2, 1, {0, 1, 2, 3, 4, 5, 6, 7}, 8);
      state.Put(3, 0, {5}, 9);
      state.Put(3, 1, {0, 8}, 9);
      state.Attend();
      state.ExpectResult();
    }
  }
}

// Also in a layer without lists, beside rows that see everything and rows whose lists are elsewhere.
TEST_P(DecodeListsOn, RowsThatSeeTheEndsNeedNoLists) {
  for (KvFormat format : kKvFormats) {
    if (format == KvFormat::kF32 && cuda()) continue;
    for (const bool lists : {true, false}) {
      SCOPED_TRACE(testing::Message() << Name(format) << (lists ? "" : " without lists"));
      AttentionCase c = Case({{20 * 128 + 5, 1}, {300, 3}, {6 * 128 - 1, 1}, {5 * 128 - 1, 1}, {70, 1}, {2000, 1}});
      c.format = format;
      ListedState state(device(), c);
      state.StoreStep();
      for (const int s : {0, 2, 3, 4}) state.Use(s, ListUse::kVisit, true);
      state.Use(5, ListUse::kVisit);
      for (const int h : {0, 1}) state.Put(5, h, {0, 7}, 12);
      if (!lists) state.TakeLists();
      state.Attend();
      state.ExpectResult();
    }
  }
}

// Where nobody's list leaves anything out the result is that of dense attention.
TEST_P(DecodeListsOn, WithoutListsAllIsSeen) {
  AttentionCase c = Case({{20 * 128 + 5, 1}, {300, 5}});
  ListedState state(device(), c);
  state.StoreStep();
  state.Use(0, ListUse::kChoose);
  state.Attend();
  state.ExpectPagedResult(false);
}

}  // namespace
}  // namespace duo
