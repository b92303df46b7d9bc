// Prefill attention on Hopper, the device side. Many rows of one sequence attend to tiles of 128 keys: the pages of its
// history where they lie, one box of the tensor copy engine for K and one for V, then the step's own keys in qkv.
//
// A block has one warp group that fetches and two or three that compute. Rows are (token, query head of the group)
// pairs, 64 a computing warp group:
//   S [64 x 128] = Q [64 x d] * K^T     both from shared memory
//   O [64 x d]  += P [64 x 128] * V     P from registers
// A group's softmax of one tile runs while its product with V of the tile before is under way, and the groups take
// turns at issuing products, so that one's exponentials run beside another's products.
//
// Coded pages are decoded to bf16 pages in a staging of fixed size first, some at a time, by another kernel; the
// results of their launches are added up.
//
// This file: what a launch and its blocks know. prefill_fetch.cuh fetches, prefill_compute.cuh attends.
//
// Work: item = (KV head, block of rows, run of tiles). Blocks of the grid stay and draw items from a counter, long ones
// first. An item with a run of its own writes a partial (o, lse) in f32, which MergeSplits adds up in order.
//
// Tiles are taken from the newest to the oldest: the step's own from the diagonal down, then the history. Only the
// diagonal, the history's last partly filled page and the edge of a window are masked. Of a page that is not full, V's
// rows past the end are cleared in shared memory, because 0 * NaN would not be 0.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/hopper/score_rows.cuh"

namespace duo::cuda {

struct PrefillWork {
  // Boxes of 64 columns x 128 rows x head_dim / 64: of the pages' memory as rows of head_dim, of qkv's K and V columns.
  CUtensorMap pages, own;
  const bf16* q;  // row i of query head h at q + i * q_stride + h * head_dim
  int64_t q_stride;
  bf16* out;  // likewise
  int64_t out_stride;
  float* lse;  // [heads * group][lse_stride] or null
  int64_t lse_stride;
  // The result of rows [first_row, rows) is added to that of earlier keys, and goes to `out` only when it is the last.
  float* sum;            // [row - first_row][query head][head_dim], null: this is all
  const float* sum_lse;  // [row - first_row][query head], null: the first
  float* next_sum_lse;   // null: the last
  int first_row, rows, heads, group;
  float scale;                       // 1 / sqrt(head_dim) * log2 e
  int own_v;                         // V's first block of 64 columns in `own`
  bool has_own;                      // do the step's own keys take part?
  int history;                       // position of row 0
  int window;                        // 0: none
  int pages_count;                   // of history, held here, not hidden from every row
  int last_tokens;                   // in the last of them
  int first_held;                    // number of the first of them among the pages held here
  int slots, first_slot, num_slots;  // PagedKv
  const int32_t* table;              // of the sequence; null: the pages lie one after the other
  int head_rows, id_rows;            // rows of head_dim from one head, and one page id, to the next
  int row_blocks;                    // of one head
  int whole;                         // items that are whole (head, row block) pairs
  int splits;                        // runs that the tiles of each remaining pair are cut into
  int items;                         // in all
  float* partial;                    // [item - whole][kRows][head_dim]
  float* partial_lse;                // [item - whole][kRows]
  uint32_t* counter;                 // 0 at the start
  // Where blocks of 128 rows visit lists of pages (kernels/page_lists.h), kListed; row 0 begins a block then, the
  // step's own keys are read from the pages, and the pages are those of [first_held, first_held + pages_count).
  const int32_t *list_lengths, *lists;  // [heads][blocks], [heads][blocks][list_stride]
  int64_t list_stride;
  int first_block, blocks;
  bool own_page;  // is the block's own page visited?
};

template <int kHeadDim, int kConsumers>
struct PrefillShape {
  static constexpr int kRows = 64 * kConsumers;
  static constexpr int kHalves = kHeadDim / 64;
  static constexpr int kStages = kHeadDim == 64 ? 4 : 3;
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static constexpr int kQBytes = kRows * kHeadDim * 2;
  static constexpr int kTileBytes = kTileKeys * kHeadDim * 2;
  static constexpr int kConsumerRegisters = kConsumers == 2 ? 232 : 160;
  static constexpr int kProducerRegisters = kConsumers == 2 ? 40 : 32;
  static constexpr int kSharedBytes = 1024 + kQBytes + 2 * kStages * kTileBytes + 256;
};

// One item, as every role of a block sees it. Tile u of it, first <= u < last, is own tile own_end - 1 - u, or behind
// those page pages_end - 1 - (u - own_count) of the history.
struct PrefillItem {
  int head, row_block, first_token;
  int own_end, own_count, first, last;
  int pages_end;
  int slot;             // of its partial, -1: none
  const int32_t* list;  // kListed: the pages [0, pages_end) of the item's list that lie among the pages of the launch

  // The first of list [0, length) that is not below `page`.
  static __device__ __forceinline__ int LowerBound(const int32_t* list, int length, int page) {
    int low = 0;
    while (low < length) {
      const int middle = (low + length) / 2;
      if (__ldg(list + middle) < page) {
        low = middle + 1;
      } else {
        length = middle;
      }
    }
    return low;
  }

  template <int kRows, bool kListed>
  static __device__ __forceinline__ PrefillItem Of(const PrefillWork& w, int index) {
    PrefillItem item;
    int pair = index, run = 0, runs = 1;
    item.slot = -1;
    if (index >= w.whole) {
      item.slot = index - w.whole;
      pair = w.whole + item.slot / w.splits;
      run = item.slot % w.splits;
      runs = w.splits;
    }
    item.head = pair / w.row_blocks;
    item.row_block = w.row_blocks - 1 - pair % w.row_blocks;
    item.first_token = w.first_row + item.row_block * kRows / w.group;
    const int last_token = min(w.first_row + (item.row_block * kRows + kRows - 1) / w.group, w.rows - 1);
    item.pages_end = w.pages_count;
    item.own_end = w.has_own ? last_token / kTileKeys + 1 : 0;
    item.own_count = item.own_end;
    const int hidden = w.window > 0 ? item.first_token - w.window + 1 : 0;  // own keys that no row of the block sees
    if (hidden > 0) {
      item.own_count -= min(hidden / kTileKeys, item.own_count);
      item.pages_end = 0;
    }
    if constexpr (kListed) {
      static_assert(kRows == kTileKeys, "a block of queries has as many blocks of rows as a group has heads");
      const int block = item.first_token / kTileKeys, own = w.first_block + block, end = w.first_held + w.pages_count;
      const int64_t at = int64_t{item.head} * w.blocks + block;
      const int32_t* list = w.lists + at * w.list_stride;
      const int length = __ldg(w.list_lengths + at), first = LowerBound(list, length, w.first_held);
      item.list = list + first;
      item.pages_end = LowerBound(list, length, end) - first;
      item.own_end = block + 1;
      item.own_count = w.own_page && own >= w.first_held && own < end ? 1 : 0;
    }
    const int tiles = item.own_count + item.pages_end;
    item.first = static_cast<int>(static_cast<int64_t>(tiles) * run / runs);
    item.last = static_cast<int>(static_cast<int64_t>(tiles) * (run + 1) / runs);
    return item;
  }
};

template <int kStages>
struct PrefillBarriers : BlockBarriers {
  __device__ uint32_t KFull(int s) const { return Tile(s); }
  __device__ uint32_t KEmpty(int s) const { return Tile(kStages + s); }
  __device__ uint32_t VFull(int s) const { return Tile(2 * kStages + s); }
  __device__ uint32_t VEmpty(int s) const { return Tile(3 * kStages + s); }
};

}  // namespace duo::cuda
