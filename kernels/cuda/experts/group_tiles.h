// One row of a mixture whose experts are int4 codes in groups or MXFP4 and are all here, on Hopper (group_tiles.cuh).
// few_rows.cu decides on it.
#pragma once

#include "kernels/cuda/experts/few_rows.cuh"

namespace duo::cuda {

// Whether these kernels do both products of a row with so many experts: their codes lie on lines of 16 bytes, outputs
// are whole tiles, and several tiles fit shared memory.
bool FitsExpertGroups(const Device& device, const ExpertProduct& up, const ExpertProduct& down, int chosen);

// product [slots][n] = gate and up by `gating`; then out [dim] = sum over the row's experts of weight * down.
void GroupGateUp(Device& device, bf16* product, const ExpertProduct& up, const Gating& gating);
void GroupDown(Device& device, View out, const ExpertProduct& down, const Routing& routing);

}  // namespace duo::cuda
