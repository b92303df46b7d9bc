// Many rows of a mixture whose experts are int4 codes, on Hopper: the device sorts the rows' slots by expert, and one
// launch multiplies them all (grouped_tiles.cuh). Nothing waits for the router.
#pragma once

#include "kernels/experts.h"

namespace duo::cuda {

bool GroupedRowsFit(const Device& device, const ExpertBank& bank);
// Whether rows lie as the kernels read and write them.
bool GroupedRowsFit(View out, View x);
size_t GroupedRowsScratchBytes(int64_t rows, const ExpertBank& bank, int chosen);
void GroupedRows(Device& device, View out, View x, const ExpertBank& bank, const Routing& routing, Arena& scratch);

}  // namespace duo::cuda
