// How the experts of a mixture lie on ranks, and what that costs a layer by the cost model. Split: every rank has some
// columns of each expert, so that a layer costs all ranks the same whatever experts are chosen. Whole: a rank has all
// columns of some experts, so that no column need be cut, but a layer waits for the rank that holds most of the chosen
// ones.
//
// Whole experts are dealt out in runs: rank r has those behind rank r - 1's, as many as its share. Their order means
// nothing to a model, so runs are as even as any other choice; and a run needs no table to find an expert's place, and
// is one piece of a file that stores all experts of a layer together.
//
// Pure functions of plain values; thread-safe.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/cost_model.h"

namespace duo {

// kAuto: whole where the cost model says that this is cheaper, else split.
enum class ExpertPlacement : uint8_t { kAuto, kSplit, kWhole };
const char* Name(ExpertPlacement placement);                                  // "auto", "split", "whole"
absl::StatusOr<ExpertPlacement> ParseExpertPlacement(std::string_view name);  // the reverse

// The largest share of a token's chosen experts that some rank is expected to hold, each rank's divided by its speed,
// in experts. A token chooses `chosen` of all experts, any of them alike:
//     E[max] = sum over the values t that it may have of (t - the value before) * P(max >= t),
//     P(max <= t) = coefficient of x^chosen in prod over ranks of sum over i <= t speed of C(held, i) x^i,
//                   over C(all, chosen)
// held, speeds: [world].
double ExpectedMostChosen(int chosen, const std::vector<int64_t>& held, const std::vector<double>& speeds);

// Columns of its MLPs that a mixture's busiest rank multiplies a token with, over its speed, the shared expert's among
// them: of one token alone, and in the mean over many, whose experts are spread evenly. shares [world]: a rank's share
// of the work; they add up to 1. unit: columns are cut at multiples of it.
ExpertColumns SplitExpertColumns(const ModelShape& shape, const std::vector<double>& shares, int64_t unit);
ExpertColumns WholeExpertColumns(const ModelShape& shape, const std::vector<double>& shares);

}  // namespace duo
