#include "kernels/cpu/page_items.h"

#include <algorithm>

#include "kernels/base/math.h"
#include "kernels/row_cuts.h"

namespace duo::cpu {
namespace {

int64_t FirstVisible(int64_t position, int window) {
  return window == 0 ? 0 : std::max<int64_t>(0, position - window + 1);
}

// Sequences and the ranges all of them share, from the first on.
struct Group {
  std::vector<int> members;
  int ranges = 0;
};

class Planner {
 public:
  Planner(const SeqBatch& batch, const PagedKv& kv, int group, int tokens, const ChunkPart& part)
      : batch_(batch),
        kv_(kv),
        group_(group),
        tokens_(tokens),
        part_(part),
        cuts_(CutsFor(batch.num_rows, batch.max_tokens)) {}

  PageItems Run() {
    result_.rows.reserve(batch_.num_rows);  // items point into it
    for (const Group& group : Groups()) AddGroup(group);
    return std::move(result_);
  }

 private:
  const int32_t* TableOf(int seq) const {
    const SeqSpan& span = batch_.spans[seq];
    return kv_.tables + (kv_.split ? span.split_table : span.table) * kv_.table_stride;
  }
  // What any of the sequence's rows sees lies in this.
  KeyRange Visible(const SeqSpan& span) const {
    const int64_t last = int64_t{span.history} + span.num_rows - 1;
    KeyRange keys{FirstVisible(span.history, kv_.window), last + 1};
    if (part_.all()) return keys;
    return {std::max(keys.begin, part_.Keys(span.history).begin), part_.Keys(last).end};
  }
  int64_t WholeIds(int seq) const { return batch_.spans[seq].history / (int64_t{kPageTokens} * kv_.slots); }
  int RangesIn(int64_t ids) const { return cuts_.RangeOf(ids * kPageTokens * kv_.slots); }

  // The longest of those that begin alike leads. All of a group read together only what all of them share, so who has
  // less than half of another's share is left for a group of its own.
  std::vector<Group> Groups() const {
    std::vector<int> left;
    for (int s = 0; s < batch_.num_seqs; ++s) {
      if (batch_.spans[s].num_rows > 0) left.push_back(s);
    }
    std::stable_sort(left.begin(), left.end(), [&](int a, int b) { return WholeIds(a) > WholeIds(b); });
    std::vector<Group> groups;
    while (!left.empty()) {
      const int lead = left.front();
      std::vector<int64_t> shared(left.size(), 0);  // ids, with the leader
      int64_t most = 0;
      for (size_t i = 1; i < left.size() && kv_.window == 0 && part_.all(); ++i) {
        const int32_t *a = TableOf(left[i]), *b = TableOf(lead);
        shared[i] = std::mismatch(a, a + WholeIds(left[i]), b).first - a;
        most = std::max(most, shared[i]);
      }
      Group group{{lead}, RangesIn(most)};
      std::vector<int> others;
      for (size_t i = 1; i < left.size(); ++i) {
        if (RangesIn(shared[i]) > 0 && 2 * shared[i] >= most) {
          group.members.push_back(left[i]);
          group.ranges = std::min(group.ranges, RangesIn(shared[i]));
        } else {
          others.push_back(left[i]);
        }
      }
      if (group.members.size() == 1) group.ranges = 0;
      groups.push_back(std::move(group));
      left = std::move(others);
    }
    return groups;
  }

  void AddGroup(const Group& group) {
    const int32_t first_row = static_cast<int32_t>(result_.rows.size());
    for (int seq : group.members) {
      const SeqSpan& span = batch_.spans[seq];
      for (int r = 0; r < span.num_rows; ++r) result_.rows.push_back({span.first_row + r, span.history + r});
    }
    const auto rows = static_cast<int32_t>(result_.rows.size()) - first_row;
    for (int head = 0; head < kv_.num_heads; ++head) {
      const int64_t shared = AddRanges(group.members[0], head, {0, group.ranges}, {first_row, rows});
      int32_t before = first_row;
      for (int seq : group.members) {
        const SeqSpan& span = batch_.spans[seq];
        const KeyRange keys = Visible(span);
        const int first = std::max(group.ranges, cuts_.RangeOf(keys.begin));
        const int end = keys.begin < keys.end ? cuts_.RangeOf(keys.end - 1) + 1 : first;
        AttendMerge merge;
        merge.first_row = span.first_row;
        merge.rows = span.num_rows;
        merge.head = head;
        merge.parts[0] = {shared + int64_t{before - first_row} * group_, int64_t{rows} * group_, group.ranges};
        merge.parts[1] = {AddRanges(seq, head, {first, end}, {before, span.num_rows}), int64_t{span.num_rows} * group_,
                          std::max(0, end - first)};
        result_.merges.push_back(merge);
        before += span.num_rows;
      }
    }
  }

  // Rows [first, first + count) of result_.rows over ranges of the sequence's pages; returns where the first partial
  // lies, which are [range][row][query head].
  struct Ranges {
    int first, end;
  };
  struct Rows {
    int32_t first, count;
  };
  int64_t AddRanges(int seq, int head, Ranges ranges, Rows rows) {
    const int64_t begin = result_.partial_rows,
                  tokens = int64_t{batch_.spans[seq].history} + batch_.spans[seq].num_rows;
    for (int range = ranges.first; range < ranges.end; ++range) {
      const int64_t end = std::min<int64_t>(cuts_.Begin(range + 1), tokens);
      for (int32_t row = 0; row < rows.count; row += tokens_) {
        AttendItem item;
        item.span = seq;
        item.head = head;
        item.list = result_.rows.data() + rows.first + row;
        item.rows = std::min<int32_t>(tokens_, rows.count - row);
        item.partial = result_.partial_rows + int64_t{row} * group_;
        item.runs[0] = {KeyRun::Place::kPages, kv_.held_count(cuts_.Begin(range) / kPageTokens) * kPageTokens,
                        kv_.held_count(CeilDiv(end, kPageTokens)) * kPageTokens, end};
        item.num_runs = 1;
        result_.items.push_back(item);
      }
      result_.partial_rows += int64_t{rows.count} * group_;
    }
    return begin;
  }

  const SeqBatch& batch_;
  const PagedKv& kv_;
  int group_, tokens_;
  ChunkPart part_;
  RowCuts cuts_;
  PageItems result_;
};

}  // namespace

PageItems ItemsOfPages(const SeqBatch& batch, const PagedKv& kv, int group, int tokens, const ChunkPart& part) {
  return Planner(batch, kv, group, tokens, part).Run();
}

}  // namespace duo::cpu
