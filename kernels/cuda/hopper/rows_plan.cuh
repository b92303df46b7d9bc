// A few rows of many sequences: which keys are read once for whom. Computed on the device from spans and page tables,
// so that captured graphs stay valid.
//
// Positions are cut into ranges at fixed places; a row's partial result of a range depends on nothing but the row and
// the range's keys, and partials are added up in ascending order. So what a row gets does not depend on its company.
//
// Sequences whose tables begin with the same page are a group (forks of one document). The ranges that lie wholly in
// the pages all of them share are one segment with the rows of all; what remains of each sequence is a segment of its
// own. An item is (segment, range, KV head, block of kBlockRows rows x query heads).
#pragma once

#include "kernels/attention.h"

namespace duo::cuda {

constexpr int kMostSequences = 256;
constexpr int kBlockRows = 64;

// Where positions are cut: every 512 to 32,768, every 2,048 to 131,072, every 4,096 to 1,048,576, then every 16,384;
// or, for many rows, whose partial results would take much room, at multiples of `even`.
struct RowsCuts {
  int even = 0;
  DUO_HD int RangeOf(int position) const {
    if (even > 0) return position / even;
    if (position < 32768) return position / 512;
    if (position < 131072) return 64 + (position - 32768) / 2048;
    if (position < 1048576) return 112 + (position - 131072) / 4096;
    return 336 + (position - 1048576) / 16384;
  }
  DUO_HD int Begin(int range) const {
    if (even > 0) return range * even;
    if (range < 64) return range * 512;
    if (range < 112) return 32768 + (range - 64) * 2048;
    if (range < 336) return 131072 + (range - 112) * 4096;
    return 1048576 + (range - 336) * 16384;
  }
};

struct RowsSegment {
  int table;  // whose pages are read
  int first_range, ranges;
  int tokens;               // none from here on
  int first_in_list, rows;  // its rows, in RowsPlan::list
  int blocks;               // of kBlockRows
  int first_slot;           // its partials: [range][row][query head], in rows of partials
};

// Where a row's partials lie: slot shared + range * shared_stride below shared_ranges, then own + ...
struct RowsOfOne {
  int ranges, shared_ranges;
  int shared, shared_stride;
  int own, own_stride;
};

struct RowsPlan {
  RowsSegment* segments;  // [2 * sequences]: their own, then those of the groups that they lead
  int* first_item;        // [2 * sequences + 1], ascending
  int* list;              // [rows]: rows of the step, group after group, sequence after sequence
  RowsOfOne* rows;        // [rows], by row of the step
  uint32_t* counter;      // of items drawn beyond each block's first
};

// One block of 1,024 threads.
__global__ void __launch_bounds__(1024) PlanRows(SeqBatch batch, PagedKv kv, int group, RowsCuts cuts, RowsPlan plan);

}  // namespace duo::cuda
