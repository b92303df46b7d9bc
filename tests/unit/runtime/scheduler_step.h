// One step of a scheduler under test, on an engine that draws token 7 always.
#pragma once

#include <functional>

#include "runtime/scheduler/scheduler.h"

namespace duo {

// What a step takes, in seconds.
using StepSeconds = std::function<double(const StepPlan& plan)>;

// False: nothing can run.
inline bool RunStep(
    Scheduler& scheduler, const StepSeconds& seconds = [](const StepPlan&) { return 0.01; }) {
  StepPlan plan;
  if (!scheduler.Next(&plan)) return false;
  StepResult result;
  result.tokens.assign(plan.sample_rows.size(), 7);
  scheduler.Complete(result, seconds(plan));
  return true;
}

}  // namespace duo
