// A few rows of many sequences: which keys are read once for whom. Computed on the device from spans and page tables,
// so that captured graphs stay valid; once a step, since it is the same for any layer and any number of KV heads.
//
// Positions are cut into ranges (kernels/row_cuts.h), each row has a partial result of each of its ranges.
//
// Sequences whose tables begin with the same page are a group (forks of one document), less those that share much less
// than the others do. The ranges that lie wholly in the pages all of them share are one segment with the rows of all;
// what remains of each sequence is a segment of its own. An item is (segment, range, KV head, block of rows x query
// heads).
#pragma once

#include "kernels/attention.h"
#include "kernels/row_cuts.h"

namespace duo::cuda {

constexpr int kMostSequences = 256;

struct RowsSegment {
  int table;  // whose pages are read
  int first_range, ranges;
  int tokens;               // none from here on
  int first_in_list, rows;  // its rows, in RowsPlan::list
  int blocks;               // of (row, query head) pairs
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
  int* first_item;        // [2 * sequences + 1], ascending; of one KV head
  int* list;              // [rows]: rows of the step, group after group, sequence after sequence
  RowsOfOne* rows;        // [rows], by row of the step
  uint32_t* counter;      // of items drawn beyond each block's first; 0 between launches
};

// One block of 1,024 threads. block_pairs: (row, query head) pairs of a block.
__global__ void __launch_bounds__(1024)
    PlanRows(SeqBatch batch, PagedKv kv, int group, int block_pairs, RowCuts cuts, RowsPlan plan);

}  // namespace duo::cuda
