// Sparse attention of answers being written: a row sees, of each KV head, the pages on a list and the last ones,
// instead of all. CPU and CUDA.
//
// Lists are made from exact shares of attention. Now and then a row sees everything, by AttendPages; ChoosePages then
// reads where it looked (attention_mass.h) and makes the lists that the rows behind it visit. A page's share of a query
// head is exp(its log mass - lse); what orders pages is the largest of their shares over the query heads of the group,
// which share a list. Pages are taken by falling share, until every query head of the group has `target` of its
// attention on what is visited and there are 2,048 tokens of it. The first page, which holds the sinks, and the last
// ones are always visited; all that comes later, too. Where more than half of the pages would be visited, the head has
// no list and sees everything.
//
// Shares are told apart in steps of a thirty-second of a nat and added up as whole numbers, so that CPU and CUDA choose
// alike, and any number of threads.
//
// Pages must lie here as a whole (no split heads, no windows). Pointers are device memory; all is ordered by the
// device's stream. Lists name pages by their number in the sequence, so they hold for whatever a page's id is.
#pragma once

#include <cstdint>

#include "kernels/attention.h"

namespace duo {

// Of one KV head of one sequence.
struct ListedHead {
  int32_t length = 0;  // pages on the list, ascending, all before `tail`
  int32_t tail = 0;    // the first of the pages that are all visited; length = tail = 0: it sees everything
  int32_t pages = 0;   // that there were when the list was made; 0: none ever was
  // What the list before kept of the attention of the row that chose: the mean and the least over the query heads.
  // -1: there was no list before.
  float kept = -1, least = -1;
};

// The lists of a layer's whole heads, for up to `slots` sequences. SeqSpan::list is a sequence's slot.
struct DecodeLists {
  int slots = 0;  // 0: the layer has no lists and is always dense
  int num_heads = 0;
  int64_t stride = 0;           // entries from one list to the next
  int32_t* pages = nullptr;     // [slots][num_heads][stride]
  ListedHead* heads = nullptr;  // [slots][num_heads]
  DUO_HD int64_t at(int slot, int head) const { return int64_t{slot} * num_heads + head; }
};

// Entries that a list of a sequence of up to so many pages can have.
constexpr int64_t ListStride(int64_t pages) { return pages / 2 + 1; }

struct DecodeListRule {
  static constexpr int kSinkPages = 1;    // the first
  static constexpr int kLastPages = 4;    // the last when a list is made, the one being filled among them
  static constexpr int kLeastPages = 16;  // visited at least: 2,048 tokens
  DUO_HD static bool Always(int32_t page) { return page < kSinkPages; }
  // The first page of those visited whatever a list says, of a sequence of so many.
  DUO_HD static int32_t Tail(int32_t pages) { return pages > kLastPages ? pages - kLastPages : 0; }
  // Are so many visited pages too many for a list?
  DUO_HD static bool TooMany(int32_t visited, int32_t pages) { return 2 * visited > pages; }
  // Shorter sequences never have lists.
  static constexpr int32_t kFewestPages = 2 * kLeastPages;
};

// Makes the lists of the sequences whose SeqSpan::list_use says so, from their first row's query; AttendPages comes
// first. batch.host_spans must be given. target: share of attention, in thousandths, below 1,000.
size_t ChoosePagesScratchBytes(const Device& device, int group, const DecodeLists& lists, int64_t max_tokens);
void ChoosePages(Device& device, const DecodeLists& lists, const StepRows& rows, const PagedKv& kv, int target,
                 Arena& scratch);

// AttendPages where some sequences visit their lists (ListUse::kVisit; one row each); the others see everything.
size_t ListedScratchBytes(const Device& device, int max_rows_total, int group, const PagedKv& kv,
                          const DecodeLists& lists, int64_t max_tokens);
void AttendListed(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, const DecodeLists& lists,
                  Arena& scratch);

}  // namespace duo
