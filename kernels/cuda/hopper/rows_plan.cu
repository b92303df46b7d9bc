#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/hopper/rows_plan.cuh"

namespace duo::cuda {
namespace {

constexpr int kMostRounds = 8;

// How many page ids two tables have in common at their beginning, of `count`; equal ids come before different ones.
__device__ int SharedIds(const int32_t* a, const int32_t* b, int count) {
  const int lane = threadIdx.x % 32;
  int low = 0, high = count;
  while (low < high) {
    const int step = (high - low + 31) / 32, end = low + (lane + 1) * step;
    const int at = min(end, high) - 1;
    const bool equal = low + lane * step < high && __ldg(a + at) == __ldg(b + at);
    const uint32_t different = ~__ballot_sync(0xffffffffu, equal);
    if (different == 0) return high;
    const int first = __ffs(different) - 1;  // the lane whose ids are not all equal, or that has none
    high = min(high, low + (first + 1) * step) - 1;
    low += first * step;
    if (low > high) return high + 1;
  }
  return low;
}

}  // namespace

__global__ void __launch_bounds__(1024)
    PlanRows(SeqBatch batch, PagedKv kv, int group, int block_pairs, RowCuts cuts, RowsPlan plan) {
  __shared__ SeqSpan spans[kMostSequences];
  __shared__ int first_id[kMostSequences], leader[kMostSequences], table[kMostSequences];
  __shared__ int ids_of[kMostSequences], most_ids[kMostSequences];  // shared with the leader; by a leader's group
  __shared__ int waiting[kMostSequences], final_leader[kMostSequences];
  __shared__ int shared_ids[kMostSequences], members[kMostSequences], group_rows[kMostSequences];
  __shared__ int shared_ranges[kMostSequences], first_in_list[kMostSequences];
  __shared__ int items[2][2 * kMostSequences], slots[2][2 * kMostSequences];
  LetDependentsStart();
  const int s = threadIdx.x, n = batch.num_seqs;
  const bool mine = s < n;
  if (mine) {
    spans[s] = batch.spans[s];
    table[s] = kv.split ? spans[s].split_table : spans[s].table;
    first_id[s] = spans[s].num_rows > 0 ? kv.tables[table[s] * kv.table_stride] : -1 - s;
    shared_ids[s] = INT32_MAX;
    members[s] = group_rows[s] = ids_of[s] = 0;
    final_leader[s] = s;
  }
  __syncthreads();
  // Groups: round by round the longest of those that begin alike leads. All of a group read together only what all of
  // them share, so who has less than half of another's share waits for the next round; who waits too long stays alone.
  const int id_tokens = kPageTokens * kv.slots;
  bool waits = mine && cuts.RangeOf(spans[s].history / id_tokens * id_tokens) > 0;
  for (int round = 0; round < kMostRounds && __syncthreads_or(waits); ++round) {
    if (mine) waiting[s] = waits, most_ids[s] = 0;
    __syncthreads();
    int lead = s;
    if (waits) {
      for (int other = 0; other < n; ++other) {
        const int longer = spans[other].history - spans[lead].history;
        const bool alike = waiting[other] && first_id[other] == first_id[s];
        if (alike && (longer > 0 || (longer == 0 && other < lead))) lead = other;
      }
    }
    if (mine) leader[s] = lead;
    __syncthreads();
    for (int i = threadIdx.x / 32; i < n; i += 32) {
      const int of = leader[i];
      if (!waiting[i] || of == i) continue;
      const int count = spans[i].history / id_tokens;
      const int ids = SharedIds(kv.tables + table[i] * kv.table_stride, kv.tables + table[of] * kv.table_stride, count);
      if (threadIdx.x % 32 == 0) ids_of[i] = ids, atomicMax(&most_ids[of], ids);
    }
    __syncthreads();
    if (waits && (lead == s || (2 * ids_of[s] >= most_ids[lead] && cuts.RangeOf(ids_of[s] * id_tokens) > 0))) {
      final_leader[s] = lead;
      waits = false;
    }
  }
  __syncthreads();
  if (mine) leader[s] = final_leader[s];
  __syncthreads();
  if (mine) {
    atomicAdd(&members[leader[s]], 1);
    atomicAdd(&group_rows[leader[s]], spans[s].num_rows);
    if (leader[s] != s) atomicMin(&shared_ids[leader[s]], ids_of[s]);
  }
  __syncthreads();
  if (mine) {
    if (leader[s] == s) {
      shared_ranges[s] = members[s] > 1 ? cuts.RangeOf(shared_ids[s] * id_tokens) : 0;
    }
    int before = 0;  // rows of sequences before this one in the list, where a group's leader comes first
    for (int other = 0; other < n; ++other) {
      const bool earlier =
          leader[other] != leader[s] ? leader[other] < leader[s] : leader[s] != s && (leader[s] == other || other < s);
      if (earlier) before += spans[other].num_rows;
    }
    first_in_list[s] = before;
  }
  __syncthreads();
  // Segments: thread s has its sequence's own, thread n + s the shared one of the group that it leads.
  RowsSegment segment = {};
  if (s < 2 * n) {
    const int seq = s < n ? s : s - n;
    const SeqSpan span = spans[seq];
    const int shared = shared_ranges[leader[seq]], tokens = span.history + span.num_rows;
    segment.table = table[seq];
    segment.first_in_list = first_in_list[seq];
    if (s < n) {
      segment.first_range = shared;
      segment.ranges = span.num_rows > 0 ? cuts.RangeOf(tokens - 1) + 1 - shared : 0;
      segment.rows = span.num_rows;
      segment.tokens = tokens;
    } else if (leader[seq] == seq) {
      segment.ranges = shared;
      segment.rows = group_rows[seq];
      segment.tokens = cuts.Begin(shared);
    }
    segment.blocks = (segment.rows * group + block_pairs - 1) / block_pairs;
    items[0][s] = segment.ranges * segment.blocks;
    slots[0][s] = segment.ranges * segment.rows;
  }
  __syncthreads();
  int from = 0;
  for (int step = 1; step < 2 * n; step *= 2) {  // sums up to and including each
    if (s < 2 * n) {
      items[1 - from][s] = items[from][s] + (s >= step ? items[from][s - step] : 0);
      slots[1 - from][s] = slots[from][s] + (s >= step ? slots[from][s - step] : 0);
    }
    from = 1 - from;
    __syncthreads();
  }
  WaitForDependency();  // the plan of an earlier step may still have been read
  if (s < 2 * n) {
    segment.first_slot = s > 0 ? slots[from][s - 1] : 0;
    plan.segments[s] = segment;
    plan.first_item[s + 1] = items[from][s];
  }
  if (s == 0) plan.first_item[0] = 0, *plan.counter = 0;
  for (int r = s; r < batch.num_rows; r += blockDim.x) plan.rows[r] = {};  // of no sequence: sees nothing
  __syncthreads();
  if (mine) {
    const SeqSpan span = spans[s];
    const int lead = leader[s], shared = shared_ranges[lead];
    const int shared_slot = n + lead > 0 ? slots[from][n + lead - 1] : 0, own_slot = s > 0 ? slots[from][s - 1] : 0;
    for (int r = 0; r < span.num_rows; ++r) {
      plan.list[first_in_list[s] + r] = span.first_row + r;
      RowsOfOne row;
      row.ranges = cuts.RangeOf(span.history + r) + 1;
      row.shared_ranges = shared;
      row.shared = shared_slot + first_in_list[s] + r - first_in_list[lead];
      row.shared_stride = group_rows[lead];
      row.own = own_slot + r;
      row.own_stride = span.num_rows;
      plan.rows[span.first_row + r] = row;
    }
  }
}

}  // namespace duo::cuda
