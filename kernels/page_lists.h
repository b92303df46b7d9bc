// Sparse attention of retrieval heads over a long text: of each KV head every block of 128 queries visits a list of
// pages instead of all. CPU and CUDA.
//
// Block B is the positions [128 B, 128 (B + 1)). A row of it sees, of each KV head, the pages on the list of its block,
// all of which lie before page B, and page B itself up to its own position. The query heads of a group share a list.
// Blocks and pages are absolute, and a page before page B is full. So a list follows from the tokens and the setting,
// and not from how a text was cut into steps or over ranks, but for pages whose scores differ by less than the rounding
// of what they are made from.
//
// How pages are chosen: PoolKeys makes the mean of each page's keys, as they are stored. A row's score of a page is its
// query times that mean / sqrt(d), and its share the softmax of these over all pages before the block; a page's score
// is the sum of the shares of every row_stride-th of the block's rows, all query heads of the group together.
// (FlashPrefill, arXiv 2603.06199, pools keys alike; it compares the rows' scores by the block's maximum, where shares
// need no such guess.) The first pages, which hold the sinks, and the last before the block are on every list, then
// those with the highest scores.
//
// A step for these ops is a SeqBatch of one sequence that begins at a block and has whole blocks only; StoreKv comes
// first: its own keys are read from the pages, too. Pages must lie here as a whole (no split heads, no windows).
// Pointers are device memory unless named host; all is ordered by the device's stream. What PoolKeys and SelectPages
// give lies in `arena` until that is rewound.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/attention.h"

namespace duo {

constexpr int kBlockTokens = kPageTokens;  // queries that share a list

// Which pages are on a list whatever their scores, and how long lists are.
struct ListRule {
  int32_t sink_pages = 1;    // the first
  int32_t local_pages = 4;   // the last before the block's own
  int32_t least_pages = 16;  // a list is no shorter: 2,048 tokens
  int32_t row_stride = 4;    // of the block's rows, tokens row_stride - 1, 2 row_stride - 1, .. say what matters
  // Pages on the list of a block with so many pages before it. density: of them, in thousandths.
  DUO_HD int32_t Length(int32_t density, int32_t before) const {
    const auto wanted = static_cast<int32_t>((int64_t{before} * density + 999) / 1000);
    const int32_t least = least_pages > sink_pages + local_pages ? least_pages : sink_pages + local_pages;
    const int32_t length = wanted > least ? wanted : least;
    return length < before ? length : before;
  }
  // Is page j, of `before` ones, on every list?
  DUO_HD bool Always(int32_t j, int32_t before) const { return j < sink_pages || j >= before - local_pages; }
};
constexpr int kDense = 1000;  // the density at which nothing is left out

// The means of the keys of a sequence's pages [0, pages), of each head of a PagedKv.
struct PooledKeys {
  // T; on the CPU [heads][head_dim][stride], pages innermost, on CUDA [heads][stride][head_dim].
  void* means = nullptr;
  int32_t pages = 0;
  int64_t stride = 0;  // pages, rounded up
};

struct PageLists {
  int32_t first_block = 0, blocks = 0, heads = 0;
  int64_t stride = 0;          // entries from one list to the next
  bool own = true;             // the block's own page is visited, too
  int32_t* lengths = nullptr;  // [heads][blocks]
  int32_t* pages = nullptr;    // [heads][blocks][stride], of each the first `length` in ascending order
  DUO_HD int64_t list(int head, int block) const { return int64_t{head} * blocks + block; }
};

// Fails with a sentence when this device's kernels cannot do a shape or format.
absl::Status CheckPageLists(const Device& device, int head_dim, int group, KvFormat format);

// Of the full pages before the end of the step.
size_t PooledKeysBytes(const Device& device, const PagedKv& kv, int64_t max_tokens);
void PoolKeys(Device& device, PooledKeys* to, const StepRows& rows, const PagedKv& kv, Arena& arena);

// densities: host [kv.num_heads], in thousandths, 1 to kDense. The lists of the step's blocks.
// TakeLists: their shape and their memory, before a backend chooses them.
void TakeLists(PageLists* to, const StepRows& rows, const PagedKv& kv, const ListRule& rule, const int32_t* densities,
               Arena& arena);
size_t SelectPagesBytes(const Device& device, int rows, int group, const PagedKv& kv, int64_t max_tokens);
void SelectPages(Device& device, PageLists* to, const StepRows& rows, const PagedKv& kv, const PooledKeys& pooled,
                 const ListRule& rule, const int32_t* densities, Arena& arena);

// The rows of the step over their lists. Of to.out only the heads of `kv` are written; to.lse has those heads alone.
size_t AttendPageListsScratchBytes(const Device& device, int rows, int group, const PagedKv& kv, int64_t max_tokens);
void AttendPageLists(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, const PageLists& lists,
                     Arena& scratch);

}  // namespace duo
