// Placement: the heads of every layer on ranks, by one strategy. What the strategies are stands in partition.h.
//
// A layer's ties are broken by what the ranks got in the layers before it, so layers are placed together and in order.
// Pure: equal inputs give equal placements on every rank.
#pragma once

#include <vector>

#include "attn_patterns/head_plan.h"
#include "parallel/cost_model.h"
#include "parallel/partition.h"

namespace duo {

using LayerHeads = std::vector<RankHeads>;  // [rank]

// shares  // [world]: a rank's share of the weights; they add up to 1
// reads_per_step: PartitionRequest's.
std::vector<LayerHeads> PlaceHeads(const CostModel& model, const HeadPlan& plan, const std::vector<double>& shares,
                                   Strategy strategy, double reads_per_step);

}  // namespace duo
