// The attention engine of the CPU: flash attention of blocks of query rows over runs of keys, wherever those are
// stored. The three attention ops describe their work as items; the engine decodes keys and values block by block into
// f32 tiles, keeps a running maximum and sum per row (Milakov and Gimelshein 2018), and merges the items of a row by
// their log-sum-exp, in order.
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
constexpr int kSplitPages = 8;        // pages a split of a chunk's keys has at least
constexpr int kBusyItems = 128;       // with fewer row blocks than this, keys are split

// Which pairs see each other, besides j <= p.
struct Mask {
  int64_t sink = 0;
  int64_t recent = -1;  // R of a streaming head; -1: a retrieval head
  int64_t window = 0;   // 0: none
  ChunkPart part = {};  // and of these, keys of one kind
};

// Keys with consecutive numbers in one place.
struct KeyRun {
  enum class Place : uint8_t { kPages, kRing, kStep, kRingAndStep };
  Place place = Place::kStep;
  // kPages: token numbers within the pages held here (page held(n / 128)), cut at position `limit`. Otherwise
  // positions. kRingAndStep: those before this step from the ring, the others from the step; its blocks begin at
  // multiples of kTileKeys and at `limit`, so that a key's place in them does not depend on the step.
  int64_t begin = 0;
  int64_t end = 0;
  int64_t limit = 0;
};

// A row of the step.
struct ListedRow {
  int32_t row = 0, position = 0;
};

// A block of query rows of one KV head, over some runs of keys of one sequence. The rows are that sequence's, or of
// `list`: then those of other sequences see every key of the runs.
struct AttendItem {
  int32_t span = 0;
  int32_t head = 0;       // among the heads of the op
  int32_t first_row = 0;  // within the sequence's rows
  int32_t rows = 0;
  const ListedRow* list = nullptr;  // [rows], positions ascending within a sequence
  int64_t partial = -1;             // first row of its partial results; -1: its results are whole
  int num_runs = 0;
  KeyRun runs[4];
  const KeyRun* listed = nullptr;  // [num_runs]: these instead of `runs`
};

// Rows of the step whose results are sums of partial ones. Those of row r and query head g of part i, `count` of them,
// lie at first + k * stride + r * group + g; the parts follow each other in order of their keys.
struct AttendMerge {
  int32_t first_row = 0, rows = 0;  // of the step
  int32_t head = 0;
  struct Part {
    int64_t first = 0, stride = 0;
    int32_t count = 0;
  };
  Part parts[2];
};

// What an op's items share.
struct AttendWork {
  View out, qkv;         // queries are those of mask.part, where it has any
  float* lse = nullptr;  // [heads * group][batch.num_rows] or null
  HeadShape shape;
  const SeqBatch* batch = nullptr;
  int first_head = 0;  // of the op's heads among the rank's
  Mask mask;
  const PagedKv* pages = nullptr;
  const RingKv* ring = nullptr;
  // A row's bits depend on its keys alone, not on how many rows are with it in an item. Costs time with many rows.
  bool exact = false;
};

// Scratch for items whose partial results have `partial_rows` rows in all.
size_t AttendScratchBytes(const Device& device, int head_dim, int64_t partial_rows);
// Runs the items, whose partial results have `partial_rows` rows in all, then the merges.
void Attend(Device& device, const AttendWork& work, const std::vector<AttendItem>& items,
            const std::vector<AttendMerge>& merges, int64_t partial_rows, Arena& scratch);

}  // namespace duo::cpu
