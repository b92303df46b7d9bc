#include "runtime/identify/gate_optimizer.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/check.h"

namespace duo {

double ScheduleFactor(int step, int steps) {
  const double ramp = std::max(1.0, steps / 5.0);
  return std::min({1.0, std::max((step + 1) / ramp, 0.1), std::max((steps - step) / ramp, 0.1)});
}

void GateOptimizer::Step(const std::vector<double>& gradient, double rate) {
  constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
  DUO_CHECK_EQ(gradient.size(), gates.size());
  ++step;
  const double correction1 = 1 - std::pow(kBeta1, step), correction2 = 1 - std::pow(kBeta2, step);
  for (size_t i = 0; i < gates.size(); ++i) {
    first[i] = kBeta1 * first[i] + (1 - kBeta1) * gradient[i];
    second[i] = kBeta2 * second[i] + (1 - kBeta2) * gradient[i] * gradient[i];
    const double move = first[i] / correction1 / (std::sqrt(second[i] / correction2) + kEpsilon);
    gates[i] = std::clamp(gates[i] - rate * move, 0.0, 1.0);
  }
}

}  // namespace duo
