// How decode attention is dealt out to blocks, computed on the device from the spans: nothing depends on host values
// that a captured graph would freeze.
//
// Where sequences visit page lists (kListed), each of their heads has pages of its own number. The walk is then over
// (sequence, KV head) instead of sequences, and a head's pages are those of its list and the last ones, laid end to
// end: positions are shifted by what is left out, which lies before every position that a row could mask.
//
// An item is (sequence, KV head, block of query columns); its work is measured in units of kUnit tokens of the pages
// held here, the last of which counts as if it were full: so all rows whose positions lie in one page are cut alike
// (attn_check.cu). All items' units, laid end to end, are cut into runs, one a block. A run that crosses items makes a
// partial for each; the partial of block b for item i has slot b + i, which no other (b, i) pair of this order has.
#pragma once

#include "kernels/base/math.h"
#include "kernels/list_ends.h"

namespace duo::cuda {

constexpr int kMinUnitsPerBlock = 4;

struct SequenceWork {
  uint32_t units;  // of one item
  uint32_t there;  // of those, the first that hold tokens
  uint32_t column_blocks;
  uint32_t skipped;  // held pages before its window, in units
  uint32_t items;    // heads * column blocks
};

// Work of other kinds that the first blocks of a launch do, and how many units it takes the time of.
struct WorkBeside {
  uint32_t blocks = 0, units = 0;
};

// Units of pages over blocks, one run a block, none empty. The first `busy` blocks have other work besides and take
// `less` units less than the others.
struct DecodeCut {
  uint32_t blocks, busy, less;
  uint32_t each,
      longer;  // the first `longer` runs are of each + 1 units, the others of `each`, before what is taken off

  __device__ DecodeCut(uint32_t units, uint32_t blocks, uint32_t busy, uint32_t less)
      : blocks(blocks), busy(busy), less(less) {
    const uint32_t all = units + busy * less;
    each = all / blocks;
    longer = all - each * blocks;
  }
  __device__ uint32_t Begin(uint32_t block) const {
    return each * block + min(block, longer) - less * min(block, busy);
  }
  __device__ uint32_t BlockOf(uint32_t unit) const {
    if (less == 0) {
      const uint32_t in_longer = longer * (each + 1);
      return unit < in_longer ? unit / (each + 1) : longer + (unit - in_longer) / each;
    }
    uint32_t low = 0, high = blocks;  // the last that begins there or before
    while (high - low > 1) {
      const uint32_t middle = (low + high) / 2;
      (Begin(middle) <= unit ? low : high) = middle;
    }
    return low;
  }
};

// The whole step's work and how it is cut: block b takes units [Begin(b), Begin(b + 1)). Where that is cheap, no run
// crosses from one item to the next, which takes the time of some units: the launch ends with its slowest block.
struct DecodePlan {
  static constexpr uint32_t kCrossing = 24;  // units

  uint32_t blocks;    // those with pages; never more than units
  uint32_t total;     // units
  uint32_t items;     // cut apart, by as many blocks each, or 1: as a whole
  uint32_t others;    // blocks with other work
  uint32_t less = 0;  // units that they take less

  // alike: do all items have as many units?
  __device__ DecodePlan(uint32_t total, uint32_t all_items, bool alike, uint32_t most_blocks, const WorkBeside& beside)
      : total(total), items(1), others(beside.blocks) {
    blocks = max(1u, min(most_blocks, CeilDiv(total, kMinUnitsPerBlock)));
    if (alike && all_items > 1 && all_items <= blocks) {
      const uint32_t each = blocks / all_items, units = total / all_items;
      if (units >= each && CeilDiv(units, each) <= total / blocks + kCrossing) items = all_items, blocks = each * items;
    }
    others = min(others, blocks);
    const uint32_t run = blocks / items, least_busy = others / items, most_busy = CeilDiv(others, items);
    if (others > 0 && most_busy < run) less = min(beside.units, (total / items - run) / (run - least_busy));
  }
  __device__ uint32_t Begin(uint32_t block) const {
    const uint32_t run = blocks / items, item = block / run;
    if (item >= items) return total;
    return item * (total / items) + CutOf(item).Begin(block - item * run);
  }
  __device__ uint32_t BlockOf(uint32_t unit) const {
    const uint32_t units = total / items, item = min(unit / max(units, 1u), items - 1);
    return item * (blocks / items) + CutOf(item).BlockOf(unit - item * units);
  }
  // Which of the other work is block b's: dealt out to the items in turn. None where it is not below `others`.
  __device__ uint32_t OtherOf(uint32_t block) const {
    const uint32_t run = blocks / items, item = block / run;
    return item < items ? (block - item * run) * items + item : block;
  }

 private:
  __device__ DecodeCut CutOf(uint32_t item) const {
    const uint32_t busy = others / items + (item < others % items);
    return DecodeCut(total / items, blocks / items, busy, less);
  }
};

// What one sequence asks for. part: of keys of one kind, where not of all.
__device__ __forceinline__ SequenceWork WorkOf(const SeqSpan& span, const PagedKv& kv, const ChunkPart& part, int group,
                                               int columns, int unit) {
  SequenceWork w = {};
  if (span.num_rows <= 0) return w;
  w.column_blocks = CeilDiv(span.num_rows * group, columns);
  w.items = kv.num_heads * w.column_blocks;
  const uint32_t slots = kv.slots, first_slot = kv.first_slot, num_slots = kv.num_slots;
  const uint32_t per_page = kPageTokens / unit;
  uint32_t tokens = span.history + span.num_rows;
  if (!part.all()) tokens = static_cast<uint32_t>(part.Keys(tokens - 1).end);
  if (tokens == 0) return w;
  const uint32_t pages = CeilDiv(tokens, kPageTokens);
  // PagedKv::held_count in 32 bits.
  auto held_count = [&](uint32_t n) {
    if (slots == 1) return n;
    const uint32_t rest = n % slots;
    return n / slots * num_slots + (rest < first_slot ? 0 : min(rest - first_slot, num_slots));
  };
  uint32_t first_page = 0;
  if (kv.window > 0 && span.history + 1 > kv.window) first_page = (span.history + 1 - kv.window) / kPageTokens;
  if (!part.all()) first_page = max(first_page, static_cast<uint32_t>(part.Keys(span.history).begin / kPageTokens));
  first_page = min(first_page, pages);
  const uint32_t held = held_count(pages), skipped = held_count(first_page);
  w.units = (held - skipped) * per_page;
  w.there = w.units;
  if (held > skipped && held_count(pages - 1) < held) {  // the sequence's last page is here, perhaps not full
    w.there -= per_page - CeilDiv(tokens - (pages - 1) * kPageTokens, unit);
  }
  w.skipped = skipped * per_page;
  return w;
}

// The pages that a head of a sequence visits: `length` of a list, then those from `tail` on.
struct ListedPages {
  const int32_t* list = nullptr;  // null: those before `length`
  int length = 0, tail = 0;

  __device__ __forceinline__ ListedPages() {}
  __device__ __forceinline__ ListedPages(const DecodeLists& lists, const SeqSpan& span, int head) {
    if (span.list_use != ListUse::kVisit) return;
    if (span.list == kListOfEnds) {
      const ListedHead ends = EndsOf(span.history);
      length = ends.length;
      tail = ends.tail;
      return;
    }
    if (lists.slots == 0) return;  // it has none here, and sees everything
    const int64_t at = lists.at(span.list, head);
    const ListedHead* listed = lists.heads + at;
    length = __ldg(&listed->length);
    tail = __ldg(&listed->tail);
    list = lists.pages + at * lists.stride;
  }
  // What positions are shifted by.
  __device__ __forceinline__ int left_out() const { return (tail - length) * kPageTokens; }
};

// What one head asks for, of a whole head without a window.
__device__ __forceinline__ SequenceWork ListedWorkOf(const SeqSpan& span, const ListedPages& pages, int group,
                                                     int columns, int unit) {
  SequenceWork w = {};
  if (span.num_rows <= 0) return w;
  w.units = w.there = CeilDiv(span.history + span.num_rows - pages.left_out(), unit);
  w.items = w.column_blocks = CeilDiv(span.num_rows * group, columns);
  return w;
}

__device__ __forceinline__ uint32_t PrefixSum(uint32_t x) {  // over the lanes, own included
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const uint32_t below = __shfl_up_sync(0xffffffffu, x, d);
    if (lane >= d) x += below;
  }
  return x;
}

// Walks the sequences, or their heads, 32 at a time; every warp does it for itself, so that no barrier is needed.
template <bool kListed>
struct PlanWalker {
  const SeqBatch& batch;
  const PagedKv& kv;
  const DecodeLists& lists;
  const ChunkPart& part;
  int group, columns, unit;
  WorkBeside beside;

  __device__ __forceinline__ int entries() const { return kListed ? batch.num_seqs * kv.num_heads : batch.num_seqs; }
  __device__ __forceinline__ SequenceWork Work(int entry) const {
    if (entry >= entries()) return SequenceWork{};
    if constexpr (kListed) {
      const SeqSpan& span = batch.spans[entry / kv.num_heads];
      return ListedWorkOf(span, ListedPages(lists, span, entry % kv.num_heads), group, columns, unit);
    } else {
      return WorkOf(batch.spans[entry], kv, part, group, columns, unit);
    }
  }
  __device__ __forceinline__ DecodePlan Plan(uint32_t grid) const {
    uint32_t total = 0, items = 0;
    for (int base = 0; base < entries(); base += 32) {
      const SequenceWork w = Work(base + threadIdx.x % 32);
      total += __reduce_add_sync(0xffffffffu, w.items * w.units);
      items += __reduce_add_sync(0xffffffffu, w.items);
    }
    return DecodePlan(total, items, entries() == 1, grid, beside);
  }
  struct Found {
    SequenceWork work;
    int seq;                          // or entry; -1: past the end
    uint32_t first_unit, first_item;  // of its items, in the order (head, column block, unit)
  };
  // The entry that holds unit `at`, or, with at = UINT32_MAX, entry `wanted`.
  __device__ __forceinline__ Found Find(uint32_t at, int wanted) const {
    uint32_t units = 0, items = 0;
    for (int base = 0; base < entries(); base += 32) {
      const int seq = base + threadIdx.x % 32;
      const SequenceWork w = Work(seq);
      const uint32_t mine = w.items * w.units, unit_end = units + PrefixSum(mine),
                     item_end = items + PrefixSum(w.items);
      const bool here = at == UINT32_MAX ? seq == wanted : at >= unit_end - mine && at < unit_end;
      const uint32_t lanes = __ballot_sync(0xffffffffu, here);
      if (lanes != 0) {
        const int lane = __ffs(lanes) - 1;
        Found found;
        found.work.units = __shfl_sync(0xffffffffu, w.units, lane);
        found.work.there = __shfl_sync(0xffffffffu, w.there, lane);
        found.work.column_blocks = __shfl_sync(0xffffffffu, w.column_blocks, lane);
        found.work.skipped = __shfl_sync(0xffffffffu, w.skipped, lane);
        found.work.items = __shfl_sync(0xffffffffu, w.items, lane);
        found.seq = base + lane;
        found.first_unit = __shfl_sync(0xffffffffu, unit_end - mine, lane);
        found.first_item = __shfl_sync(0xffffffffu, item_end - w.items, lane);
        return found;
      }
      units = __shfl_sync(0xffffffffu, unit_end, 31);
      items = __shfl_sync(0xffffffffu, item_end, 31);
    }
    Found none = {};
    none.seq = -1;
    return none;
  }
};

// PagedKv's page arithmetic in 32 bits, and without divisions for whole heads: it is on the path of every load.
template <bool kListed>
struct PageFinder {
  const uint8_t* head;   // first page of the head
  const int32_t* table;  // of the sequence
  int64_t id_stride, page_bytes;
  uint32_t slots, first_slot, num_slots;
  ListedPages listed;

  __device__ PageFinder(const PagedKv& kv, int head_index, int table_index, const ListedPages& listed)
      : head(kv.base + head_index * kv.head_stride),
        table(kv.tables + table_index * kv.table_stride),
        id_stride(kv.id_stride()),
        page_bytes(kv.page.page_bytes()),
        slots(kv.slots),
        first_slot(kv.first_slot),
        num_slots(kv.num_slots),
        listed(listed) {}
  // The q-th page held here, or visited: its number in the sequence, shifted, and where it lies.
  __device__ __forceinline__ uint32_t Number(uint32_t q) const {
    return kListed || slots == 1 ? q : q / num_slots * slots + first_slot + q % num_slots;
  }
  __device__ __forceinline__ const uint8_t* At(uint32_t q) const {
    if constexpr (kListed) {
      const int page = static_cast<int>(q);
      const int number = page >= listed.length    ? page - listed.length + listed.tail
                         : listed.list == nullptr ? page
                                                  : __ldg(listed.list + page);
      return head + __ldg(table + number) * id_stride;
    } else {
      if (slots == 1) return head + __ldg(table + q) * id_stride;
    }
    return head + __ldg(table + q / num_slots) * id_stride + q % num_slots * page_bytes;
  }
};

}  // namespace duo::cuda
