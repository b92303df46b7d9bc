// Renders a partition: a table for people, JSON for programs (the contract of `duo plan --json`), an SVG drawing.
// Pure functions of values; thread-safe.
#pragma once

#include <string>
#include <vector>

#include "parallel/partition.h"

namespace duo {

// One row a layer, one column a rank. A cell has one character for each KV head in the model's order: '#' a whole
// retrieval head, 1..9 the tenths of a split one (rounded), '.' a streaming head, blank = held elsewhere. Where that
// gets wider than 160 characters, counts instead. Below: KV memory, balance, modelled step times side by side.
std::string PlanTable(const PartitionRequest& request, const std::vector<Partition>& strategies);

// Keys: strategy, world, layers[].ranks[].{retrieval, split[].{head, slots, of, load}, streaming}, step_seconds,
// read_seconds, balance, and step_seconds_by_strategy and read_seconds_by_strategy.
std::string PlanJson(const std::vector<Partition>& strategies);

// The same picture: blue squares for whole heads, partly filled ones for pieces, grey dots for streaming heads.
std::string PlanSvg(const PartitionRequest& request, const Partition& partition);

}  // namespace duo
