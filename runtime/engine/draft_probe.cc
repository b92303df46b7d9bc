#include "runtime/engine/draft_probe.h"

#include <algorithm>

#include "kernels/base/check.h"
#include "kernels/base/seconds.h"
#include "kernels/list_ends.h"
#include "kernels/row_cuts.h"
#include "runtime/engine/engine_state.h"

namespace duo {
namespace {

constexpr uint64_t kSeed = 7;

}  // namespace

DraftProbe::DraftProbe(Engine& engine, SessionId session, int64_t room)
    : state_(EngineProbe(engine).state()), sequence_(*state_.scheduler->FindSequence(session)) {
  DUO_CHECK_EQ(state_.comm->size(), 1);
  DUO_CHECK_GE(sequence_.length, room);
  begin_ = sequence_.length - room;
  state_.Settle();
}

StepPlan DraftProbe::Plan(int64_t at, std::span<const int32_t> tokens, float temperature) const {
  StepPlan plan;
  SeqSpan span;
  span.num_rows = static_cast<int32_t>(tokens.size());
  span.history = static_cast<int32_t>(at);
  span.table = span.split_table = sequence_.table;
  span.ring = sequence_.ring;
  plan.spans.push_back(span);
  for (int32_t row = 0; row < span.num_rows; ++row) {
    plan.tokens.push_back(tokens[row]);
    plan.positions.push_back(span.history + row);
    plan.row_seq.push_back(0);
    plan.sample_rows.push_back(row);
    plan.samples.push_back({temperature, 1.0f, kSeed, at + row + 1});
  }
  return plan;
}

double DraftProbe::Run(const StepPlan& plan, StepResult* result) {
  const Clock::time_point start = Clock::now();
  StepResult found = state_.worker->Execute(plan);
  const double seconds = SecondsSince(start);
  if (result != nullptr) *result = std::move(found);
  return seconds;
}

double DraftProbe::Step(int rows) {
  const std::span<const int32_t> tokens = sequence_.tokens;
  return Run(Plan(begin_, tokens.subspan(begin_, rows), 0));
}

double DraftProbe::MakeLists(int target, double* density) {
  StepPlan plan = Plan(begin_, {&sequence_.tokens[begin_], 1}, 0);
  plan.spans[0].list_use = ListUse::kChoose;
  plan.list_target = target;
  StepResult result;
  const double seconds = Run(plan, &result);
  const auto heads = static_cast<int>(result.lists.heads.size());
  const ListsFound found = FoundBy(result.lists.heads.data(), heads, static_cast<int>(state_.config.kv_heads));
  *density = found.heads > 0 ? found.visited / found.pages : 1;
  return seconds;
}

double DraftProbe::Guess(GuessKind kind, bool draft_weights) {
  StepPlan plan = Plan(begin_, {&sequence_.tokens[begin_], 1}, 0);
  plan.spans[0].list_use = ListUse::kVisit;
  if (kind == GuessKind::kEnds) plan.spans[0].list = kListOfEnds;
  plan.draft_weights = draft_weights ? 1 : 0;
  return Run(plan);
}

int64_t DraftProbe::DrawnOtherwise(int64_t tokens, int rows, float temperature, RowsFed fed,
                                   const std::function<void(int64_t drawn)>& told) {
  DUO_CHECK_LE(rows, kExactRows);
  DUO_CHECK_LE(begin_ + tokens, sequence_.length);
  int64_t otherwise = 0;
  int32_t last = sequence_.tokens[begin_];
  for (int64_t at = 0; at < tokens;) {
    if (told) told(at);
    const int64_t in_page = kPageTokens - (begin_ + at) % kPageTokens;
    const auto count = static_cast<int>(std::min<int64_t>({rows, tokens - at, in_page}));
    std::vector<int32_t> read, drawn;
    for (int row = 0; row < count; ++row) {
      if (fed == RowsFed::kSession) last = sequence_.tokens[begin_ + at + row];
      read.push_back(last);
      StepResult result;
      Run(Plan(begin_ + at + row, {&last, 1}, temperature), &result);
      last = result.tokens[0];
      drawn.push_back(last);
    }
    StepResult together;
    Run(Plan(begin_ + at, read, temperature), &together);
    for (int row = 0; row < count; ++row) otherwise += together.tokens[row] != drawn[row];
    at += count;
  }
  return otherwise;
}

}  // namespace duo
