// Few rows of a mixture, or those of a recorded step: which experts are chosen is read on the device. Part of
// kernels/cuda/experts/experts.cu.
#pragma once

#include "kernels/experts.h"

namespace duo::cuda {

size_t FewRowsScratchBytes(int64_t rows, const ExpertBank& bank, int chosen);
// As ExpertMlp.
void FewRows(Device& device, View out, View x, const ExpertBank& bank, const Routing& routing, Arena& scratch);

// out [rows, dim] = sum over a row's slots of weight * y [slots or places, dim], of experts that are here. places:
// where a slot's y is; null: at the slot.
void CombineSlots(Device& device, View out, const float* y, const ExpertBank& bank, const Routing& routing,
                  const int32_t* places);

}  // namespace duo::cuda
