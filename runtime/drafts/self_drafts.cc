#include "runtime/drafts/self_drafts.h"

#include <algorithm>

namespace duo {
namespace {

constexpr double kWorth = 1.05;            // more tokens a second than without, at least
constexpr double kMost = 10, kFewest = 3;  // guesses that count, of a kind whose last round was just now or long ago
constexpr double kSure = 0.9;
constexpr int kTried = 2;  // guesses of a round that only shows how it is, at least

}  // namespace

void GuessCost::Measured(double seconds, double one) {
  if (!(seconds > 0) || !(one > 0)) return;
  constexpr double kFollow = 0.2;
  follow_ = std::max(kFollow, follow_ / (1 + follow_));  // of the first ones, and the guess, the mean
  ratio_ += follow_ * (std::clamp(seconds / one, 0.01, 2.0) - ratio_);
}

void GuessCost::MadeLists(double seconds, double plain, double one) {
  if (!(seconds > 0) || !(plain > 0) || !(one > 0)) return;
  constexpr double kFollow = 0.2;
  making_ += kFollow * (std::clamp((seconds - plain) / one, 0.0, 4.0) - making_);
}

bool SelfDrafts::Can(GuessKind kind, MayGuessBy may) const {
  return may != MayGuessBy::kNo && (leaves_out_[At(kind)] || Waits(kind));
}

SelfDrafts::Round SelfDrafts::Choose(int most, const MayGuessByKind& may, const StepCosts& costs,
                                     const GuessCosts& guess) {
  awaits_lists_ = false;
  if (!on() || most < 1) return {};
  double best = kWorth;
  Round chosen, tried;
  for (const GuessKind kind : {GuessKind::kEnds, GuessKind::kAll, GuessKind::kLists}) {
    if (!Can(kind, may[At(kind)])) continue;
    double chance = 1, tokens = 1, best_of_kind = 0;
    Round round = {kind, 0};
    for (int k = 1; k <= std::min(most, kMostDrafts); ++k) {
      chance *= odds_[At(kind)];
      tokens += chance;
      const double rate = tokens / (k * guess[At(kind)].ratio() + costs.Of(k + 1));
      if (rate <= best_of_kind) continue;
      best_of_kind = rate;
      round.tokens = k;
    }
    best_of_kind /= 1 + best_of_kind * guess[At(kind)].making() / kListsServe;
    // A row that makes lists gives one token, and is there for those that they serve.
    if (may[At(kind)] == MayGuessBy::kAfterRow) best_of_kind = kListsServe / ((kListsServe - 1) / best_of_kind + 1);
    if (best_of_kind > best) {
      best = best_of_kind;
      chosen = round;
    }
    // Who waited longest.
    if (tried.tokens == 0 || waited_[At(kind)] > waited_[At(tried.kind)]) tried = round;
  }
  if (tried.tokens == 0) {  // time goes by all the same
    for (int& waited : waited_) ++waited;
    return {};
  }
  pays_ = chosen.tokens > 0;
  lists_pay_ = pays_ && chosen.kind == GuessKind::kLists;
  if (pays_) {
    rest_ = kRest;
  } else if (poor_ >= kTries) {
    poor_ = 0;
    resting_ = rest_;
    rest_ = std::min(2 * rest_, kLongestRest);
    return {};
  }
  trial_ = !pays_ || (Waits(tried.kind) && tried.kind != chosen.kind);
  if (trial_) chosen = {tried.kind, std::min(most, std::max(tried.tokens, kTried))};
  awaits_lists_ = may[At(chosen.kind)] == MayGuessBy::kAfterRow;
  return awaits_lists_ ? Round() : chosen;
}

void SelfDrafts::LeftNothingOut(GuessKind kind) {
  leaves_out_[At(kind)] = false;
  waited_[At(kind)] = 0;
  if (kind == GuessKind::kLists) lists_pay_ = false;
}

void SelfDrafts::Learn(GuessKind kind, int guessed, int right) {
  if (guessed == 0) return;
  const double away = std::min(1.0, waited_[At(kind)] / static_cast<double>(kTryAgain));
  double &odds = odds_[At(kind)], &counted = counted_[At(kind)];
  counted += away * (std::min(counted, kFewest) - counted);
  for (int i = 0; i < std::min(right + 1, guessed); ++i) {
    counted = std::min(counted + 1, kMost);
    odds += ((i < right ? 1.0 : 0.0) - odds) / counted;
  }
  for (int& waited : waited_) ++waited;
  const bool better = trial_ && right == guessed && odds < kSure;  // than it was known to be, and may be still better
  waited_[At(kind)] = better ? kTryAgain - kTrySoon : 0;
  poor_ = pays_ ? 0 : poor_ + 1;
  leaves_out_[At(kind)] = true;
}

}  // namespace duo
