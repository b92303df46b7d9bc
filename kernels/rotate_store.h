// A step's queries and keys rotated, and its keys and values stored, in one launch where a device has it; elsewhere it
// is the ops that it stands for, and so it is in no table of ops (backend.h). Types, pointers and threads are those of
// attention.h.
#pragma once

#include <vector>

#include "kernels/attention.h"

namespace duo {

// RotateQk, then StoreKv of each group of `paged`, to the same bits in qkv and pages.
void RotateAndStore(Device& device, const StepRows& rows, View cos_sin, const QkNorms& norms, const float* key_shift,
                    const std::vector<PagedKv>& paged);

namespace cuda {
// At most so many groups, of one format and with a head: more would be pieces of as many split heads.
constexpr size_t kMostStoredGroups = 4;
void RotateAndStore(Device& device, const StepRows& rows, View cos_sin, const QkNorms& norms, const float* key_shift,
                    const std::vector<PagedKv>& paged);
}  // namespace cuda

}  // namespace duo
