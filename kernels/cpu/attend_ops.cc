// The attention ops as items of the engine: which rows, which keys, cut where.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"
#include "kernels/base/math.h"
#include "kernels/cpu/attend.h"
#include "kernels/cpu/kv_vector.h"
#include "kernels/cpu/page_items.h"
#include "kernels/row_cuts.h"

namespace duo::cpu {
namespace {

int TokensPerItem(int group) { return std::max(1, kTileRows / group); }

// A row block's pages are cut into splits only where there are too few blocks to keep a large machine busy.
int MaxSplits(int64_t blocks) { return static_cast<int>(std::max<int64_t>(1, CeilDiv(kBusyItems, blocks))); }
int NumSplits(int64_t pages, int max_splits) {
  return static_cast<int>(std::clamp<int64_t>(CeilDiv(pages, kSplitPages), 1, max_splits));
}

// Partial results' rows of any chunk of at most `rows` rows: with `blocks` row blocks of at most kTileRows query rows
// there are at most kTileRows * blocks * (kBusyItems / blocks + 1) of them, and none from kBusyItems blocks on.
int64_t MaxPartialRows(int rows, int group, const PagedKv& kv, int64_t max_tokens) {
  const int splits = NumSplits(CeilDiv(max_tokens, kPageTokens), kBusyItems);
  if (splits == 1) return 0;
  return std::min<int64_t>(int64_t{splits} * rows * group * kv.num_heads, 2 * kTileRows * kBusyItems);
}

int64_t FirstInWindow(int64_t position, int window) {
  return window == 0 ? 0 : std::max<int64_t>(0, position - window + 1);
}

// add(item, position of its first row) for every sequence, KV head and block of rows.
template <typename Add>
void ForRowBlocks(const SeqBatch& batch, int heads, int group, const Add& add) {
  const int tokens = TokensPerItem(group);
  for (int s = 0; s < batch.num_seqs; ++s) {
    const SeqSpan& span = batch.spans[s];
    for (int h = 0; h < heads; ++h) {
      for (int r = 0; r < span.num_rows; r += tokens) {
        AttendItem item;
        item.span = s;
        item.head = h;
        item.first_row = r;
        item.rows = std::min(tokens, span.num_rows - r);
        add(item, int64_t{span.history} + r);
      }
    }
  }
}

// The items of a chunk, in order, and the rows of their partial results.
struct ChunkItems {
  const PagedKv& kv;
  int group, max_splits;
  std::vector<AttendItem> items = {};
  std::vector<AttendMerge> merges = {};
  int64_t partial_rows = 0;

  // One block of rows, the first of which is `step_row` of the step, over the pages [0, limit) held here, cut into
  // splits, the last of which also takes `own`.
  void Add(AttendItem item, int32_t step_row, int64_t first_visible, int64_t limit, const KeyRun* own) {
    const int64_t begin = kv.held_count(std::max<int64_t>(first_visible, 0) / kPageTokens),
                  end = kv.held_count(CeilDiv(limit, kPageTokens));
    const int splits = NumSplits(end - begin, max_splits);
    const int64_t stride = int64_t{item.rows} * group;
    if (splits > 1) merges.push_back({step_row, item.rows, item.head, {{partial_rows, stride, splits}, {}}});
    for (int s = 0; s < splits; ++s) {
      item.num_runs = 0;
      const int64_t first = begin + (end - begin) * s / splits, last = begin + (end - begin) * (s + 1) / splits;
      if (first < last) {
        item.runs[item.num_runs++] = {KeyRun::Place::kPages, first * kPageTokens, last * kPageTokens, limit};
      }
      if (s == splits - 1 && own != nullptr) item.runs[item.num_runs++] = *own;
      if (splits > 1) {
        item.partial = partial_rows;
        partial_rows += stride;
      }
      items.push_back(item);
    }
  }
};

Mask MaskOf(const PagedKv& kv, const ChunkPart& part) { return {0, -1, kv.window, part}; }
Mask MaskOf(const RingKv& kv, const ChunkPart& part) { return {kv.sink, kv.recent, kv.window, part}; }

// Streaming heads of every sequence, over work.ring and the step. Of a few rows each has the bits that it has alone
// (kernels/row_cuts.h): the ring and the step are one run then, cut at fixed positions.
void RunStreaming(Device& device, const AttendWork& work, Arena& scratch) {
  const RingKv& kv = *work.ring;
  const bool exact = work.batch->num_rows <= kExactRows;
  std::vector<AttendItem> items;
  ForRowBlocks(*work.batch, kv.num_heads, work.shape.group, [&](AttendItem item, int64_t position) {
    const SeqSpan& span = work.batch->spans[item.span];
    const int64_t first = FirstInWindow(position, kv.window), history = span.history, end = position + item.rows;
    const auto add = [&](KeyRun::Place place, int64_t from, int64_t to) {
      if (from < to) item.runs[item.num_runs++] = {place, from, to, 0};
    };
    // Sinks, then the recent tokens; of each, those before this step from the ring, the others from the step.
    const int64_t sinks = std::min<int64_t>(kv.sink, end), recent = std::max({sinks, first, position - kv.recent});
    if (exact) {
      const int64_t held = std::max<int64_t>(recent, std::min(span.ring_begin, span.history));
      if (first < sinks) item.runs[item.num_runs++] = {KeyRun::Place::kRingAndStep, first, sinks, 0};
      if (held < end) item.runs[item.num_runs++] = {KeyRun::Place::kRingAndStep, held, end, kv.sink};
      items.push_back(item);
      return;
    }
    add(KeyRun::Place::kRing, first, std::min(sinks, history));
    add(KeyRun::Place::kStep, std::max(first, history), sinks);
    add(KeyRun::Place::kRing, std::max<int64_t>(recent, span.ring_begin), history);
    add(KeyRun::Place::kStep, std::max(recent, history), end);
    items.push_back(item);
  });
  Attend(device, work, items, {}, 0, scratch);
}

}  // namespace

absl::Status CheckAttention(const Device&, int head_dim, int group, KvFormat) {
  if (head_dim < 2 || head_dim > kMaxHeadDim || head_dim % 2 != 0) {
    return absl::UnimplementedError(absl::StrCat("attention on the CPU takes even head sizes from 2 to ", kMaxHeadDim,
                                                 ", the model has ", head_dim));
  }
  if (group < 1 || group > kTileRows) {
    return absl::UnimplementedError(
        absl::StrCat("attention on the CPU takes 1 to ", kTileRows, " query heads per KV head, the model has ", group));
  }
  return absl::OkStatus();
}

// Tables lie in host memory: looking at them again for every layer costs nothing.
size_t PagesPlanBytes(const Device&, int, const PagedKv&) { return 0; }
void PlanPages(Device&, SeqBatch&, int, const PagedKv&, Arena&) {}

size_t DecodeScratchBytes(const Device& device, int max_rows_total, int group, const PagedKv& kv, int64_t max_tokens,
                          bool) {
  int64_t rows = 0;
  for (int n = 1; n <= max_rows_total; ++n) rows = std::max(rows, MostPartialsOf(n, max_tokens));
  return AttendScratchBytes(device, kv.page.head_dim, rows * group * kv.num_heads);
}

void AttendPages(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, Arena& scratch) {
  const HeadShape& shape = rows.shape;
  const SeqBatch& batch = rows.batch;
  AttendWork work{to.out, rows.qkv, to.lse, shape, &batch, kv.first_head, MaskOf(kv, rows.part), &kv, nullptr};
  work.exact = batch.num_rows <= kExactRows;
  const PageItems paged = ItemsOfPages(batch, kv, shape.group, TokensPerItem(shape.group), rows.part);
  Attend(device, work, paged.items, paged.merges, paged.partial_rows, scratch);
}

size_t PrefillScratchBytes(const Device& device, int rows, int group, const PagedKv& kv, int64_t max_tokens, bool) {
  return AttendScratchBytes(device, kv.page.head_dim, MaxPartialRows(rows, group, kv, max_tokens));
}

void AttendPrefill(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, bool own_square,
                   Arena& scratch) {
  const HeadShape& shape = rows.shape;
  const SeqBatch& batch = rows.batch;
  const AttendWork work{to.out, rows.qkv, to.lse, shape, &batch, kv.first_head, MaskOf(kv, rows.part), &kv, nullptr};
  const SeqSpan& span = batch.host_spans[0];
  const int tokens = TokensPerItem(shape.group);
  ChunkItems chunk{kv, shape.group, MaxSplits(int64_t{CeilDiv(span.num_rows, tokens)} * kv.num_heads)};
  // The last rows see the most keys: they go first, so that no thread is left with a long item at the end.
  for (int r = (span.num_rows - 1) / tokens * tokens; r >= 0; r -= tokens) {
    for (int h = 0; h < kv.num_heads; ++h) {
      AttendItem item;
      item.head = h;
      item.first_row = r;
      item.rows = std::min(tokens, span.num_rows - r);
      const int64_t position = int64_t{span.history} + r, last = position + item.rows - 1;
      int64_t first = FirstInWindow(position, kv.window), end = last + 1;
      if (!rows.part.all()) {
        first = std::max(first, rows.part.Keys(position).begin);
        end = rows.part.Keys(last).end;
      }
      const KeyRun own{KeyRun::Place::kStep, std::max<int64_t>(first, span.history), end, 0};
      chunk.Add(item, span.first_row + r, first, std::min<int64_t>(end, span.history), own_square ? &own : nullptr);
    }
  }
  Attend(device, work, chunk.items, chunk.merges, chunk.partial_rows, scratch);
}

// Nothing here is made ready.
void StartPrefillPlans(Device&, int, int, int, int, int64_t) {}
void WaitForPrefillPlans(Device&) {}

size_t StreamingScratchBytes(const Device& device, int, int, const RingKv& kv) {
  return AttendScratchBytes(device, kv.head_dim, 0);
}

bool StreamsBesidePages(const Device&, const StepRows&, const PagedKv&, const RingKv&) { return false; }

void AttendStreaming(Device& device, const Partial& to, const StepRows& rows, const RingKv& kv, Arena& scratch) {
  RunStreaming(device,
               {to.out, rows.qkv, to.lse, rows.shape, &rows.batch, kv.first_head, MaskOf(kv, rows.part), nullptr, &kv},
               scratch);
}

size_t AttendWindowScratchBytes(const Device& device, int64_t, const HeadShape& shape) {
  return AttendScratchBytes(device, shape.head_dim, 0);
}

// A step without history: rings are not read.
void AttendWindow(Device& device, const Partial& to, const WindowRows& rows, Arena& scratch) {
  const HeadShape& shape = rows.shape;
  const WindowMask& mask = rows.mask;
  RingKv kv;
  kv.head_dim = shape.head_dim;
  kv.num_heads = shape.kv_heads;
  kv.sink = mask.sink;
  kv.recent = mask.recent;
  kv.window = mask.window;
  SeqSpan span;
  span.num_rows = static_cast<int32_t>(rows.qkv.rows);
  SeqBatch batch;
  batch.spans = &span;
  batch.num_seqs = 1;
  batch.num_rows = span.num_rows;
  RunStreaming(device, {to.out, rows.qkv, to.lse, shape, &batch, 0, MaskOf(kv, {}), nullptr, &kv}, scratch);
}

}  // namespace duo::cpu
