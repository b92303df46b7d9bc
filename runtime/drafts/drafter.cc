#include "runtime/drafts/drafter.h"

#include <algorithm>
#include <cmath>

namespace duo {
namespace {

constexpr double kLearnOwn = 1.0 / 8, kLearnAll = 1.0 / 32;
constexpr double kWorth = 1.05;            // more tokens a second than without, at least
constexpr int64_t kIndexedAtOnce = 16384;  // tokens of a question, each step: well below a millisecond

}  // namespace

int DraftOdds::Kind(int matched) {
  return matched <= 3 ? 0 : matched <= 5 ? 1 : matched <= 9 ? 2 : matched <= 17 ? 3 : 4;
}

void DraftOdds::Learn(int matched, bool right, double weight) {
  double& odds = odds_[Kind(matched)];
  odds += weight * ((right ? 1.0 : 0.0) - odds);
}

int StepCosts::Kind(int rows) { return rows <= 1 ? 0 : rows <= 2 ? 1 : rows <= 4 ? 2 : rows <= 8 ? 3 : 4; }

StepCosts::StepCosts(double per_row) {
  for (int kind = 0; kind < kKinds; ++kind) guesses_[kind] = 1 + per_row * ((1 << kind) - 1);
  ratios_ = guesses_;
}

// Steps of one row are the unit, which follows the context's length and the machine's load; a ratio learns slowly, and,
// where it is not measured any more, goes back to the guess, so that one slow step does not end drafts for good. A step
// takes longer for many reasons, of which the first steps have most, and is never twice as fast by chance.
void StepCosts::Measured(int rows, double seconds) {
  if (rows < 1 || rows > kExactRows || !(seconds > 0)) return;
  constexpr double kUnit = 0.3, kUnitOfMore = 0.1, kRatio = 0.15, kForget = 0.0005;
  const int kind = Kind(rows);
  if (one_ == 0 || seconds < 0.5 * one_ * ratios_[kind]) one_ = seconds / ratios_[kind];
  const double off = std::clamp(seconds / (one_ * ratios_[kind]), 0.5, 2.0);
  one_ *= std::pow(off, kind == 0 ? kUnit : kUnitOfMore);
  for (int other = 1; other < kKinds; ++other) {
    if (other == kind) {
      ratios_[kind] = std::clamp(ratios_[kind] * std::pow(off, kRatio), 1.0, static_cast<double>(1 << kind));
    } else {
      ratios_[other] += kForget * (guesses_[other] - ratios_[other]);
    }
  }
}

// What was drawn since the last call, against what was expected then.
void Drafter::Learn(std::span<const int32_t> context, DraftOdds* all) {
  const auto drawn = context.subspan(seen_);
  const size_t compared = std::min(drawn.size(), expected_.size());
  const auto right = static_cast<size_t>(
      std::mismatch(drawn.begin(), drawn.begin() + static_cast<int64_t>(compared), expected_.begin()).first -
      drawn.begin());
  for (size_t i = 0; i < std::min(right + 1, compared); ++i) {
    const int matched = match_.matched + static_cast<int>(i);
    odds_.Learn(matched, i < right, kLearnOwn);
    all->Learn(matched, i < right, kLearnAll);
  }
  if (right == drawn.size() && source_ >= 0) {  // still along the same text
    match_.next += static_cast<int64_t>(right);
    match_.matched = std::min(match_.matched + static_cast<int>(right), DraftIndex::kLongestMatch);
  } else {
    source_ = -1;
  }
}

void Drafter::Look(std::span<const int32_t> context, std::span<const QuotableText> texts) {
  match_ = DraftMatch();
  source_ = -1;
  for (size_t i = 0; i <= texts.size(); ++i) {
    const DraftMatch found =
        i < texts.size() ? texts[i].index->Find(texts[i].tokens, context) : own_.Find(context, context);
    if (found.matched <= match_.matched) continue;
    match_ = found;
    source_ = static_cast<int>(i);
  }
}

void Drafter::Read(std::span<const int32_t> context) { own_.Extend(context, kIndexedAtOnce); }

std::span<const int32_t> Drafter::Propose(std::span<const int32_t> context, std::span<const QuotableText> texts,
                                          int most, const StepCosts& costs, DraftOdds* odds, PlannedStep* step) {
  if (!began_) {
    odds_ = *odds;
    seen_ = context.size();
    began_ = true;
  }
  Learn(context, odds);
  seen_ = context.size();
  Read(context);
  const auto text_of = [&](int source) {
    return static_cast<size_t>(source) < texts.size() ? texts[source].tokens : context;
  };
  if (source_ < 0 || match_.next >= static_cast<int64_t>(text_of(source_).size())) Look(context, texts);
  expected_.clear();
  if (source_ < 0) return {};
  const auto follows = text_of(source_).subspan(match_.next);
  expected_.assign(follows.begin(), follows.begin() + std::min<int64_t>(follows.size(), kMostDrafts + 1));

  const int longest = std::min({most, static_cast<int>(expected_.size()), kMostDrafts});
  double best = kWorth * step->tokens / costs.Of(step->rows), best_tokens = 0, chance = 1, tokens = step->tokens;
  int chosen = 0;
  for (int k = 1; k <= longest; ++k) {
    chance *= odds_.Of(match_.matched + k - 1);
    tokens += chance;
    const double rate = tokens / costs.Of(step->rows + k);
    if (rate <= best) continue;
    best = rate;
    best_tokens = tokens;
    chosen = k;
  }
  if (chosen == 0) return {};
  step->rows += chosen;
  step->tokens = best_tokens;
  return {expected_.data(), static_cast<size_t>(chosen)};
}

}  // namespace duo
