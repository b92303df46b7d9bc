#include "parallel/expert_placement.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "parallel/range_sizes.h"

namespace duo {
namespace {

constexpr double kSlack = 1e-9;  // speeds are quotients: i / speed * speed may be less than i

double Speed(const std::vector<double>& shares, size_t rank) {
  return shares[rank] * static_cast<double>(shares.size());
}

// P(max <= limit). Kept as a chance from rank to rank, so that no number gets large: chance[k] is that of k experts,
// drawn from the `seen` ones of the ranks so far, to be within these ranks' limits.
double ChanceWithin(double limit, int chosen, const std::vector<int64_t>& held, const std::vector<double>& speeds,
                    const std::vector<double>& log_factorials) {
  const auto log_choose = [&](int64_t n, int64_t k) {
    return log_factorials[n] - log_factorials[k] - log_factorials[n - k];
  };
  std::vector<double> chance = {1};
  int64_t seen = 0;
  for (size_t r = 0; r < held.size(); ++r) {
    const auto most = static_cast<int64_t>(limit * speeds[r] + kSlack);
    const int64_t all = seen + held[r], here = std::min({most, held[r], int64_t{chosen}});
    std::vector<double> next(std::min<int64_t>(all, chosen) + 1, 0.0);
    for (int64_t a = 0; a < static_cast<int64_t>(chance.size()); ++a) {
      if (chance[a] == 0) continue;
      for (int64_t b = 0; b <= here && a + b < static_cast<int64_t>(next.size()); ++b) {
        next[a + b] += chance[a] * std::exp(log_choose(seen, a) + log_choose(held[r], b) - log_choose(all, a + b));
      }
    }
    chance = std::move(next);
    seen = all;
  }
  return chosen < static_cast<int>(chance.size()) ? chance[chosen] : 0;
}

}  // namespace

const char* Name(ExpertPlacement placement) {
  switch (placement) {
    case ExpertPlacement::kAuto:
      return "auto";
    case ExpertPlacement::kSplit:
      return "split";
    case ExpertPlacement::kWhole:
      return "whole";
  }
  return "?";
}

absl::StatusOr<ExpertPlacement> ParseExpertPlacement(std::string_view name) {
  for (const ExpertPlacement p : {ExpertPlacement::kAuto, ExpertPlacement::kSplit, ExpertPlacement::kWhole}) {
    if (name == Name(p)) return p;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--experts: expected auto, split or whole, found '", std::string(name), "'"));
}

double ExpectedMostChosen(int chosen, const std::vector<int64_t>& held, const std::vector<double>& speeds) {
  std::vector<double> values = {0};
  for (size_t r = 0; r < held.size(); ++r) {
    for (int64_t i = 1; i <= std::min<int64_t>(chosen, held[r]); ++i) {
      values.push_back(static_cast<double>(i) / speeds[r]);
    }
  }
  std::sort(values.begin(), values.end());
  std::vector<double> log_factorials = {0};
  for (int64_t n = 1; n <= std::accumulate(held.begin(), held.end(), int64_t{0}); ++n) {
    log_factorials.push_back(log_factorials.back() + std::log(static_cast<double>(n)));
  }
  double expected = 0;
  for (size_t i = 1; i < values.size(); ++i) {
    if (values[i] - values[i - 1] < kSlack) continue;
    const double below = ChanceWithin(values[i - 1], chosen, held, speeds, log_factorials);
    expected += (values[i] - values[i - 1]) * (1 - below);
  }
  return expected;
}

ExpertColumns SplitExpertColumns(const ModelShape& shape, const std::vector<double>& shares, int64_t unit) {
  double busiest = 0;
  const std::vector<int64_t> own = RangeSizes(shape.expert_intermediate, shares, unit),
                             shared = RangeSizes(shape.shared_intermediate, shares, 1);
  for (size_t r = 0; r < shares.size(); ++r) {
    const int64_t columns = shape.experts_chosen * own[r] + shared[r];
    busiest = std::max(busiest, static_cast<double>(columns) / Speed(shares, r));
  }
  return {busiest, busiest};
}

ExpertColumns WholeExpertColumns(const ModelShape& shape, const std::vector<double>& shares) {
  const std::vector<int64_t> held = RangeSizes(shape.experts, shares, 1),
                             columns = RangeSizes(shape.shared_intermediate, shares, 1);
  std::vector<double> speeds;
  double shared = 0, most = 0;  // of a token, in the mean
  for (size_t r = 0; r < shares.size(); ++r) {
    speeds.push_back(Speed(shares, r));
    shared = std::max(shared, static_cast<double>(columns[r]) / speeds[r]);
    most = std::max(most, static_cast<double>(held[r]) * shape.experts_chosen / shape.experts / speeds[r]);
  }
  const double one = ExpectedMostChosen(shape.experts_chosen, held, speeds);
  return {one * shape.expert_intermediate + shared, most * shape.expert_intermediate + shared};
}

}  // namespace duo
