// Few rows of a mixture whose experts are codes in groups of two levels, int8 in groups or codes of a table. Part of
// kernels/cuda/experts/experts.cu, which decides on them.
#pragma once

#include "kernels/cuda/experts/few_rows.cuh"

namespace duo::cuda {

// Which products these kernels do: those whose x fits shared memory.
bool InExpertPieces(const ExpertProduct& p);
// product [slots][n] = gate and up by `gating`.
void PieceGateUp(Device& device, bf16* product, const ExpertProduct& up, const Gating& gating);
// y [slots][dim]. early: the lists may be read before the kernel ahead has ended.
void PieceDown(Device& device, float* y, const ExpertProduct& down, bool early);
// Of one row all of whose experts are here, their outputs added up in the same launch, where that fits.
bool PieceDownFitsOneRow(const ExpertProduct& down, int chosen);
void PieceDownOneRow(Device& device, View out, const ExpertProduct& down, const Routing& routing, bool early);

}  // namespace duo::cuda
