// Raw device memory, for Buffer alone: the one place that calls the allocators.
#pragma once

#include <cstddef>

#include "kernels/base/device.h"

namespace duo {

// Null when there is not enough; CPU memory is aligned to Arena::kAlignment.
void* AllocateDeviceMemory(Device& device, size_t bytes);
void FreeDeviceMemory(Device& device, void* data);

}  // namespace duo
