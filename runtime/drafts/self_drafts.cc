#include "runtime/drafts/self_drafts.h"

#include <algorithm>

namespace duo {
namespace {

constexpr double kWorth = 1.05;  // more tokens a second than without, at least
constexpr double kLearn = 0.1;
constexpr int kTried = 2;  // guesses of a round that only shows how it is

}  // namespace

void GuessCost::Measured(double seconds, double one) {
  if (!(seconds > 0) || !(one > 0)) return;
  constexpr double kFollow = 0.2;
  ratio_ += kFollow * (std::clamp(seconds / one, 0.01, 2.0) - ratio_);
}

int SelfDrafts::Choose(int most, const StepCosts& costs, const GuessCost& guess) {
  if (!on() || most < 1) return 0;
  double best = kWorth, chance = 1, tokens = 1;
  int chosen = 0;
  for (int k = 1; k <= std::min(most, kMostDrafts); ++k) {
    chance *= odds_;
    tokens += chance;
    const double rate = tokens / (k * guess.ratio() + costs.Of(k + 1));
    if (rate <= best) continue;
    best = rate;
    chosen = k;
  }
  if (chosen > 0) {
    poor_ = 0;
    rest_ = kRest;
    return chosen;
  }
  if (++poor_ <= kTries) return std::min(most, kTried);
  poor_ = 0;
  resting_ = rest_;
  rest_ = std::min(2 * rest_, kLongestRest);
  return 0;
}

void SelfDrafts::Learn(int guessed, int right) {
  for (int i = 0; i < std::min(right + 1, guessed); ++i) odds_ += kLearn * ((i < right ? 1.0 : 0.0) - odds_);
}

}  // namespace duo
