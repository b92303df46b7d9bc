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

SelfDrafts::Round SelfDrafts::Take(GuessKind kind, int tokens) {
  for (int& waited : waited_) ++waited;
  waited_[At(kind)] = 0;
  last_ = kind;
  return {kind, tokens};
}

SelfDrafts::Round SelfDrafts::Choose(int most, const std::array<bool, kGuessKinds>& may, const StepCosts& costs,
                                     const GuessCosts& guess) {
  if (!on() || most < 1) return {};
  double best = kWorth;
  Round chosen;
  GuessKind longest = last_;  // who waited longest, of those that can guess
  for (const GuessKind kind : {GuessKind::kLists, GuessKind::kEnds}) {
    if (!may[At(kind)]) continue;
    if (!may[At(longest)] || waited_[At(kind)] > waited_[At(longest)]) longest = kind;
    double chance = 1, tokens = 1;
    for (int k = 1; k <= std::min(most, kMostDrafts); ++k) {
      chance *= odds_[At(kind)];
      tokens += chance;
      const double rate = tokens / (k * guess[At(kind)].ratio() + costs.Of(k + 1));
      if (rate <= best) continue;
      best = rate;
      chosen = {kind, k};
    }
  }
  if (!may[At(longest)]) return {};
  if (chosen.tokens > 0) {
    poor_ = 0;
    rest_ = kRest;
    if (Waits(longest)) return Take(longest, std::min(most, kTried));
    return Take(chosen.kind, chosen.tokens);
  }
  if (++poor_ <= kTries) return Take(longest, std::min(most, kTried));
  poor_ = 0;
  resting_ = rest_;
  rest_ = std::min(2 * rest_, kLongestRest);
  return {};
}

void SelfDrafts::Learn(GuessKind kind, int guessed, int right) {
  double& odds = odds_[At(kind)];
  for (int i = 0; i < std::min(right + 1, guessed); ++i) odds += kLearn * ((i < right ? 1.0 : 0.0) - odds);
}

}  // namespace duo
