// Long texts that are read sparsely: where chunks end, which of their blocks visit page lists, and what audits found.
#include <algorithm>

#include "kernels/base/math.h"
#include "runtime/scheduler/scheduler.h"

namespace duo {

// A prompt whose tokens are scored is fed in steps of few rows, which are dense.
bool Scheduler::ReadsSparsely(const Request& request) const {
  return options_.sparsity.on() && !(request.ask && Scored(request));
}

// Where the last whole blocks of the request's text end: those that its last token has no part in, or, where more of
// the same text follows, all.
int64_t Scheduler::SparseEnd(const Request& request) const {
  const int64_t end = request.sequence->length + Remaining(request) - (request.more_tokens > 0 ? 0 : 1);
  return end / kBlockTokens * kBlockTokens;
}

// Of a chunk that may have so many rows: as many as end it where a block does, and so that a block is whole in one
// chunk whatever the chunks.
int64_t Scheduler::AlignedRows(const Request& request, int64_t rows) const {
  const int64_t history = request.sequence->length, sparse_end = SparseEnd(request),
                first_block = RoundUp(history, int64_t{kBlockTokens});
  if (!ReadsSparsely(request)) return rows;
  if (first_block >= sparse_end) return rows;  // the rest is dense
  int64_t end = history + rows;
  if (options_.sparsity.mode == PrefillSparsity::Mode::kAuto) {
    const int64_t window_end = WindowAt(first_block).end;
    if (end > window_end && window_end < sparse_end) end = window_end;
  }
  if (end < history + Remaining(request)) {
    end = std::max(end / kBlockTokens * kBlockTokens, first_block + kBlockTokens);
  }
  return std::min(end - history, Remaining(request));
}

// Which blocks of the chunk of `rows` rows that was just added are read by lists.
void Scheduler::PlanSparse(Request& request, int64_t rows, StepPlan* plan) {
  if (!ReadsSparsely(request)) return;
  const int64_t history = request.sequence->length;
  SparseRows sparse;
  sparse.begin = static_cast<int32_t>(RoundUp(history, int64_t{kBlockTokens}));
  sparse.end = static_cast<int32_t>(std::min((history + rows) / kBlockTokens * kBlockTokens, SparseEnd(request)));
  if (sparse.begin >= sparse.end) return;
  SparseRead& read = request.sequence->sparse;
  sparse.densities = read.Densities(options_.sparsity, sparse.begin, options_.heads);
  const auto last_before = static_cast<int32_t>(sparse.end / kBlockTokens - 1);
  const int32_t least = *std::min_element(sparse.densities.begin(), sparse.densities.end());
  read.Read(options_.sparsity, kListRule.Length(least, last_before) < last_before);
  sparse.rungs = RungsOf(options_.sparsity);
  for (SparseWindow window = WindowAt(sparse.begin); window.begin < sparse.end; window = WindowAt(window.end)) {
    if (window.audited < sparse.begin || window.audited + kBlockTokens > sparse.end) continue;
    sparse.audited.push_back(static_cast<int32_t>(window.audited));
  }
  chunk_.densities = sparse.densities;
  plan->sparse = std::move(sparse);
}

void Scheduler::OnAudited(Request& request, const SparseAudits& audits) {
  for (size_t i = 0; i < audits.positions.size(); ++i) {
    request.sequence->sparse.Found(audits.positions[i], chunk_.densities, &audits.heads[i * chunk_.densities.size()]);
  }
}

// May the prompt go on where such a sequence is? What was read by lists is another text's state than what was not.
bool Scheduler::ReadAlike(const Sequence& sequence) const { return sequence.sparse.setting() == options_.sparsity; }

}  // namespace duo
