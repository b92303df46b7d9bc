// AttendPages' items: few rows of many sequences over pages, cut into ranges at fixed positions (kernels/row_cuts.h).
// Sequences that begin with the same pages (forks of one document) are a group: over the ranges that lie wholly in the
// pages all of them share, their rows are one item, so that keys are read and decoded once; what remains of each is
// its own.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/cpu/attend.h"

namespace duo::cpu {

struct PageItems {
  std::vector<AttendItem> items;
  std::vector<AttendMerge> merges;
  std::vector<ListedRow> rows;  // those of a group one after the other; items point into it
  int64_t partial_rows = 0;
};
// `tokens`: rows of one item at most. part: rows attend to keys of one kind, which are other ones for rows of other
// chunks: nothing is read together then.
PageItems ItemsOfPages(const SeqBatch& batch, const PagedKv& kv, int group, int tokens, const ChunkPart& part = {});

}  // namespace duo::cpu
