// The attention engine of the CPU: flash attention of blocks of query rows over runs of keys, wherever those are
// stored. The three attention ops describe their work as items; the engine decodes keys and values block by block into
// f32 tiles, keeps a running maximum and sum per row (Milakov and Gimelshein 2018), and merges the items of a row by
// their log-sum-exp.
//
// Items and their order are functions of shapes alone, so results do not depend on the number of threads.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/attention.h"
#include "kernels/cpu/simd.h"

namespace duo::cpu {

constexpr int kTileRows = 256;        // query rows (tokens x group) of one item; those of one token stay together
constexpr int kTileKeys = kKeyBlock;  // keys decoded at a time; divides kPageTokens
constexpr int kSplitPages = 8;        // pages a split of a row's keys has at least
constexpr int kBusyItems = 128;       // with fewer row blocks than this, keys are split

// Which pairs see each other, besides j <= p.
struct Mask {
  int64_t sink = 0;
  int64_t recent = -1;  // R of a streaming head; -1: a retrieval head
  int64_t window = 0;   // 0: none
};

// Keys with consecutive numbers in one place.
struct KeyRun {
  enum class Place : uint8_t { kPages, kRing, kStep };
  Place place = Place::kStep;
  // kPages: token numbers within the pages held here (page held(n / 128)), cut at position `limit`. Otherwise
  // positions.
  int64_t begin = 0;
  int64_t end = 0;
  int64_t limit = 0;
};

// A block of query rows of one sequence and KV head, over some runs of keys.
struct AttendItem {
  int32_t span = 0;
  int32_t head = 0;       // among the heads of the op
  int32_t first_row = 0;  // within the sequence's rows
  int32_t rows = 0;
  int32_t split = 0;
  int32_t splits = 1;
  int64_t partial = 0;  // first row of its partial results, when splits > 1
  int num_runs = 0;
  KeyRun runs[4];
};

// What an op's items share.
struct AttendWork {
  View out, qkv;
  float* lse = nullptr;  // [heads * group][batch.num_rows] or null
  HeadShape shape;
  const SeqBatch* batch = nullptr;
  int first_head = 0;  // of the op's heads among the rank's
  Mask mask;
  const PagedKv* pages = nullptr;
  const RingKv* ring = nullptr;
};

// Scratch for items whose partial results have `partial_rows` rows in all.
size_t AttendScratchBytes(const Device& device, int head_dim, int64_t partial_rows);
// Runs the items; those of one row block follow each other in order of their split.
void Attend(Device& device, const AttendWork& work, const std::vector<AttendItem>& items, int64_t partial_rows,
            Arena& scratch);

}  // namespace duo::cpu
