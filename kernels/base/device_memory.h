// Raw device memory, for Buffer alone: the one place that calls the allocators.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/base/device.h"

namespace duo {

// Null when there is not enough; CPU memory is aligned to Arena::kAlignment.
void* AllocateDeviceMemory(Device& device, size_t bytes);
void FreeDeviceMemory(Device& device, void* data);

// Where memory that is only measured begins: an address to count from, never to be looked at.
inline void* MeasuredMemory() { return reinterpret_cast<void*>(uintptr_t{1} << 20); }

}  // namespace duo
