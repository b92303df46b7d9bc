// Page lists of answers on the CPU: the attending is the engine's of attend.h, whose items have runs of listed pages.
#include "kernels/decode_lists.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>
#include <iterator>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/math.h"
#include "kernels/cpu/attend.h"
#include "kernels/cpu/page_items.h"
#include "kernels/list_ends.h"
#include "kernels/row_cuts.h"

namespace duo::cpu {
namespace {

using Rule = DecodeListRule;

// A listed head's pages are cut into at most so many items, of at least so many pages.
constexpr int kMostPieces = 16, kLeastPieces = 8;

// Where one KV head looked.
struct HeadLogs {
  const float* logs;  // [group][pages]
  int32_t pages;
  int group;
  std::vector<float> lse;  // [group]

  HeadLogs(const float* logs, int32_t pages, int group) : logs(logs), pages(pages), group(group) {
    for (int g = 0; g < group; ++g) {
      const float* of = logs + int64_t{g} * pages;
      const float top = *std::max_element(of, of + pages);
      float sum = 0;
      for (int32_t j = 0; j < pages; ++j) sum += std::exp(of[j] - top);
      lse.push_back(top + std::log(sum));
    }
  }
  float LogShare(int g, int32_t page) const { return logs[int64_t{g} * pages + page] - lse[g]; }
  uint32_t Share(int g, int32_t page) const { return ListShare::Of(LogShare(g, page)); }
  int Bin(int32_t page) const {
    float largest = LogShare(0, page);
    for (int g = 1; g < group; ++g) largest = std::max(largest, LogShare(g, page));
    return ListShare::Bin(largest);
  }
};

// What the list kept of the attention, over the query heads.
void Measure(const HeadLogs& of, const int32_t* list, ListedHead* head) {
  double sum = 0, least = 1;
  for (int g = 0; g < of.group; ++g) {
    uint32_t kept = 0;
    for (int32_t i = 0; i < head->length; ++i) kept += of.Share(g, list[i]);
    for (int32_t j = head->tail; j < of.pages; ++j) kept += of.Share(g, j);
    const double share = std::min(1.0, static_cast<double>(kept) / ListShare::kWhole);
    sum += share;
    least = std::min(least, share);
  }
  head->kept = static_cast<float>(sum / of.group);
  head->least = static_cast<float>(least);
}

// The last bin whose pages have to be visited, so that every query head has its target and there are enough pages.
int LastBin(const HeadLogs& of, int target) {
  const int32_t tail = Rule::Tail(of.pages);
  const uint32_t wanted = ListShare::Wanted(target);
  std::vector<int> bins(tail);
  std::array<int32_t, ListShare::kBins> counts = {};
  int32_t visited = of.pages - tail;
  for (int32_t j = 0; j < tail; ++j) {
    bins[j] = of.Bin(j);
    ++(Rule::Always(j) ? visited : counts[bins[j]]);
  }
  int last = 0;
  for (visited += counts[0]; visited < Rule::kLeastPages && last < ListShare::kBins - 1;) visited += counts[++last];
  for (int g = 0; g < of.group; ++g) {
    std::array<uint32_t, ListShare::kBins> mass = {};
    uint32_t kept = 0;
    for (int32_t j = 0; j < of.pages; ++j) {
      (j >= tail || Rule::Always(j) ? kept : mass[bins[j]]) += of.Share(g, j);
    }
    int bin = 0;
    for (kept += mass[0]; kept < wanted && bin < ListShare::kBins - 1;) kept += mass[++bin];
    last = std::max(last, bin);
  }
  return last;
}

// The runs of pages that a row of a head visits, in order.
std::vector<KeyRun> RunsOf(const ListedHead& head, const int32_t* list, int64_t tokens) {
  std::vector<KeyRun> runs;
  const auto add = [&](int64_t first, int64_t end) {
    if (!runs.empty() && runs.back().end == first * kPageTokens) {
      runs.back().end = end * kPageTokens;
    } else if (first < end) {
      runs.push_back({KeyRun::Place::kPages, first * kPageTokens, end * kPageTokens, tokens});
    }
  };
  for (int32_t i = 0; i < head.length; ++i) add(list[i], list[i] + 1);
  add(head.tail, CeilDiv(tokens, kPageTokens));
  return runs;
}

// The next `tokens` of the runs, which lose them.
std::vector<KeyRun> TakeTokens(std::vector<KeyRun>* runs, int64_t tokens) {
  std::vector<KeyRun> taken;
  size_t run = 0;
  for (; run < runs->size() && tokens > 0; ++run) {
    KeyRun& from = (*runs)[run];
    KeyRun part = from;
    part.end = std::min(part.end, part.begin + tokens);
    tokens -= part.end - part.begin;
    taken.push_back(part);
    from.begin = part.end;
    if (from.begin < from.end) break;
  }
  runs->erase(runs->begin(), runs->begin() + static_cast<ptrdiff_t>(run));
  return taken;
}

// Does it visit a list? A layer has none but that of the ends.
bool Visits(const SeqSpan& span, const DecodeLists& lists) {
  return span.list_use == ListUse::kVisit && (span.list == kListOfEnds || lists.slots > 0);
}

// Adds the items of the sequences that visit lists.
class ListedItems {
 public:
  ListedItems(const SeqBatch& batch, const DecodeLists& lists, int heads, int group)
      : batch_(batch), lists_(lists), heads_(heads), group_(group) {}

  void AddTo(PageItems* items) {
    for (int s = 0; s < batch_.num_seqs; ++s) {
      const SeqSpan& span = batch_.spans[s];
      if (!Visits(span, lists_) || span.num_rows == 0) continue;
      DUO_CHECK_EQ(span.num_rows, 1);
      DUO_CHECK(span.list == kListOfEnds || span.list < lists_.slots);
      for (int h = 0; h < heads_; ++h) AddHead(s, h, items);
    }
  }

 private:
  void AddHead(int seq, int head, PageItems* items) {
    const SeqSpan& span = batch_.spans[seq];
    const int64_t tokens = int64_t{span.history} + 1;
    std::vector<KeyRun> runs;
    if (span.list == kListOfEnds) {
      constexpr int32_t kFirst[] = {0};
      static_assert(DecodeListRule::kSinkPages == std::size(kFirst));
      runs = RunsOf(EndsOf(span.history), kFirst, tokens);
    } else {
      const int64_t at = lists_.at(span.list, head);
      runs = RunsOf(lists_.heads[at], lists_.pages + at * lists_.stride, tokens);
    }
    int64_t pages = 0;
    for (const KeyRun& run : runs) pages += (run.end - run.begin) / kPageTokens;
    const int64_t pieces = std::clamp<int64_t>(CeilDiv(pages, kLeastPieces), 1, kMostPieces);
    AttendMerge merge;
    merge.first_row = span.first_row;
    merge.rows = 1;
    merge.head = head;
    merge.parts[0] = {items->partial_rows, group_, static_cast<int32_t>(pieces)};
    items->merges.push_back(merge);
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t count = pages * (piece + 1) / pieces - pages * piece / pieces;
      runs_.push_back(TakeTokens(&runs, count * kPageTokens));
      AttendItem item;
      item.span = seq;
      item.head = head;
      item.rows = 1;
      item.partial = items->partial_rows;
      item.listed = runs_.back().data();
      item.num_runs = static_cast<int>(runs_.back().size());
      items->items.push_back(item);
      items->partial_rows += group_;
    }
  }

  const SeqBatch& batch_;
  const DecodeLists& lists_;
  int heads_, group_;
  std::deque<std::vector<KeyRun>> runs_;  // items point into them
};

}  // namespace

size_t ChooseListsScratchBytes(const Device&, const DecodeLists&, int64_t) { return 0; }

void ChooseLists(Device& device, const DecodeLists& lists, const ListChoice& choice, const float* logs, Arena&) {
  device.pool().ParallelFor(lists.num_heads, [&](int64_t h, int) {
    const HeadLogs of(logs + h * choice.group * choice.pages, choice.pages, choice.group);
    const int64_t at = lists.at(choice.slot, static_cast<int>(h));
    ListedHead& head = lists.heads[at];
    int32_t* list = lists.pages + at * lists.stride;
    ListedHead made;
    if (choice.again && head.tail > 0) {
      Measure(of, list, &head);
      made = head;
    }
    made.pages = of.pages;
    made.tail = Rule::Tail(of.pages);
    made.length = 0;
    const int last = LastBin(of, choice.target);
    const auto on_list = [&](int32_t j) { return Rule::Always(j) || of.Bin(j) <= last; };
    for (int32_t j = 0; j < made.tail; ++j) made.length += on_list(j);
    if (Rule::TooMany(made.length + of.pages - made.tail, of.pages)) made.length = made.tail = 0;
    int32_t* next = list;
    for (int32_t j = 0; j < made.tail; ++j) {
      if (on_list(j)) *next++ = j;
    }
    head = made;
  });
}

size_t ListedScratchBytes(const Device& device, int max_rows_total, int group, const PagedKv& kv,
                          const DecodeLists& lists, int64_t max_tokens) {
  int64_t rows = 0;
  for (int n = 1; n <= max_rows_total; ++n) rows = std::max(rows, MostPartialsOf(n, max_tokens));
  static_assert(DecodeListRule::kSinkPages + DecodeListRule::kLastPages <= kLeastPieces);  // a piece
  rows += int64_t{std::min(max_rows_total, lists.slots)} * kMostPieces + max_rows_total;
  return AttendScratchBytes(device, kv.page.head_dim, rows * group * kv.num_heads);
}

void AttendListed(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, const DecodeLists& lists,
                  Arena& scratch) {
  const HeadShape& shape = rows.shape;
  // Sequences that visit no lists are planned as they are without company.
  std::vector<SeqSpan> others(rows.batch.spans, rows.batch.spans + rows.batch.num_seqs);
  for (SeqSpan& span : others) {
    if (Visits(span, lists)) span.num_rows = 0;
  }
  SeqBatch dense = rows.batch;
  dense.spans = others.data();
  PageItems items = ItemsOfPages(dense, kv, shape.group, std::max(1, kTileRows / shape.group));
  ListedItems listed(rows.batch, lists, kv.num_heads, shape.group);
  listed.AddTo(&items);
  AttendWork work{to.out, rows.qkv, to.lse, shape, &rows.batch, kv.first_head, {}, &kv, nullptr};
  work.exact = rows.batch.num_rows <= kExactRows;
  Attend(device, work, items.items, items.merges, items.partial_rows, scratch);
}

}  // namespace duo::cpu
