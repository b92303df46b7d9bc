#include "runtime/model/sparse_prefill.h"

namespace duo {
namespace {

// Some rows of the chunk as a step of their own. `span` and the step live until the op that takes them returns.
StepRows Part(const Device& device, const StepRows& rows, int64_t first, int64_t count, SeqSpan* span) {
  *span = rows.batch.host_spans[0];
  span->first_row = 0;
  span->num_rows = static_cast<int32_t>(count);
  span->history += static_cast<int32_t>(first);
  StepRows part = {rows.qkv.Rows(first, count), rows.shape, {}};
  part.batch.host_spans = span;
  part.batch.spans = device.is_cuda() ? nullptr : span;  // prefill looks at the host's
  part.batch.num_seqs = 1;
  part.batch.num_rows = part.batch.max_rows = static_cast<int>(count);
  part.batch.max_tokens = rows.batch.max_tokens;
  return part;
}

}  // namespace

void AttendSparsePrefill(Device& device, View out, const StepRows& rows, const SparseHeads& heads, SparseStep& step,
                         Arena& arena) {
  const size_t mark = arena.used();
  const int64_t history = rows.batch.host_spans[0].history, begin = step.rows.begin - history,
                end = step.rows.end - history;
  SeqSpan span;
  const auto dense = [&](int64_t from, int64_t to) {
    if (from >= to) return;
    const StepRows part = Part(device, rows, from, to - from, &span);
    AttendPrefill(device, {out.Rows(from, to - from), nullptr}, part, heads.kv, true, arena);
  };
  dense(0, begin);
  dense(end, rows.batch.num_rows);
  std::vector<int32_t> densities;
  for (const int head : heads.head_ids) densities.push_back(step.rows.densities[heads.first + head]);
  const StepRows blocks = Part(device, rows, begin, end - begin, &span);
  PooledKeys pooled;
  PoolKeys(device, &pooled, blocks, heads.kv, arena);
  const size_t pooled_end = arena.used();
  PageLists lists;
  SelectPages(device, &lists, blocks, heads.kv, pooled, kListRule, densities.data(), arena);
  AttendPageLists(device, {out.Rows(begin, end - begin), nullptr}, blocks, heads.kv, lists, arena);
  arena.Rewind(pooled_end);
  for (size_t i = 0; i < step.rows.audited.size(); ++i) {
    const StepRows block = Part(device, rows, step.rows.audited[i] - history, kBlockTokens, &span);
    std::vector<PageAudit> audits(heads.head_ids.size());
    AuditPages(device, audits.data(), block, heads.kv, pooled, kListRule, step.rows.rungs, densities.data(), arena);
    const size_t all = step.rows.densities.size();
    for (size_t h = 0; h < audits.size(); ++h) step.audits[i * all + heads.first + heads.head_ids[h]] = audits[h];
  }
  arena.Rewind(mark);
}

}  // namespace duo
