// Few rows of a mixture whose experts are MXFP4, on Hopper (group_tiles.cuh). few_rows.cu decides on them.
#pragma once

#include "kernels/cuda/experts/few_rows.cuh"

namespace duo::cuda {

// Which products these kernels do: those of whole tiles, whose parts lie on lines of 16 bytes and fit shared memory.
// up: of gate and up, whose outputs are two halves.
bool InExpertGroups(const Device& device, const ExpertProduct& p, bool up);

// Of one row all of whose experts are here: gate and up, then down with the sum of its experts, where both products are
// of this kind and that fits. Between them go GroupCounters ints, which the former zeroes.
bool GroupsFitOneRow(const ExpertProduct& down, int chosen);
int GroupCounters(const ExpertProduct& down);
void GroupGateUpOneRow(Device& device, bf16* product, const ExpertProduct& up, const Gating& gating, int* counters,
                       int num_counters);
void GroupDownOneRow(Device& device, View out, float* y, const ExpertProduct& down, const Routing& routing,
                     int* counters);

// Of lists. product [slots][n] = gate and up by `gating`; y [slots][dim]. early: the lists may be read before the
// kernel ahead has ended.
void GroupGateUp(Device& device, bf16* product, const ExpertProduct& up, const Gating& gating);
void GroupDown(Device& device, float* y, const ExpertProduct& down, bool early);

}  // namespace duo::cuda
