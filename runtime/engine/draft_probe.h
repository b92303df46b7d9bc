// DraftProbe: what the steps of answers with drafts take (runtime/scheduler/scheduler_drafts.cc), and whether the rows
// of a step draw what they draw alone. For benchmarks and tests: it goes by the scheduler, straight to the worker of an
// engine with one rank and --speculate self. Not thread-safe; the engine's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "runtime/drafts/self_drafts.h"
#include "runtime/engine/probe.h"
#include "runtime/scheduler/sequence.h"

namespace duo {

// What DrawnOtherwise's rows are fed: what was drawn before them, or the session's own tokens there.
enum class RowsFed { kDrawn, kSession };

class DraftProbe {
 public:
  // Of the session's tokens the last `room` are written over again and again.
  DraftProbe(Engine& engine, SessionId session, int64_t room);

  // Seconds of a step of so many rows, of which each is drawn from: one, or one with drafts behind it.
  double Step(int rows);
  // Makes the lists that guesses visit, for a share of the attention in thousandths. Seconds of that step, and the
  // share of the pages that a head visits.
  double MakeLists(int target, double* density);
  // Seconds of a step that guesses.
  double Guess(GuessKind kind, bool draft_weights);

  // Draws so many tokens one after the other, and the same places again in steps of `rows` rows, as if every draft had
  // been right. Returns how many were drawn otherwise. With the session's own tokens every draw stands behind real text
  // where the session is one, however the draws before it fell; at most `room` of them. told: of the tokens drawn so
  // far.
  int64_t DrawnOtherwise(int64_t tokens, int rows, float temperature, RowsFed fed = RowsFed::kDrawn,
                         const std::function<void(int64_t drawn)>& told = {});

 private:
  StepPlan Plan(int64_t at, std::span<const int32_t> tokens, float temperature) const;
  double Run(const StepPlan& plan, StepResult* result = nullptr);

  EngineProbe::State& state_;
  const Sequence& sequence_;
  int64_t begin_;  // of what is written over
};

}  // namespace duo
