// Few rows of a mixture whose experts are int4 codes in groups or MXFP4, on Hopper (group_tiles.cuh). few_rows.cu
// decides on them.
#pragma once

#include "kernels/cuda/experts/few_rows.cuh"

namespace duo::cuda {

// Whether these kernels do a product of lists of slots: codes lie on lines of 16 bytes, outputs are whole tiles, and
// several tiles, of at least 20 KB each, fit shared memory beside x (with smaller ones few_rows_tiles.cuh is faster).
// up: of gate and up, whose outputs are two halves.
bool InExpertGroups(const Device& device, const ExpertProduct& p, bool up);
// product [slots][n] = gate and up by `gating`; y [slots][dim]. early: the lists may be read before the kernel ahead
// has ended.
void GroupGateUp(Device& device, bf16* product, const ExpertProduct& up, const Gating& gating);
void GroupDown(Device& device, float* y, const ExpertProduct& down, bool early);

// Of one row all of whose experts are here: whether both products can be done so, gate with up, and then down with the
// sum of its experts, out [dim].
bool GroupsFitOneRow(const Device& device, const ExpertProduct& up, const ExpertProduct& down, int chosen);
void GroupGateUpOneRow(Device& device, bf16* product, const ExpertProduct& up, const Gating& gating);
void GroupDownOneRow(Device& device, View out, const ExpertProduct& down, const Routing& routing);

}  // namespace duo::cuda
