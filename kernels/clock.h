// The device's clock, for timing the parts of a step from inside it.
#pragma once

#include <cstdint>

#include "kernels/base/device.h"

namespace duo {

// out[0] (device memory) = nanoseconds once all work before has ended, on a clock whose differences alone mean
// anything. On CUDA asynchronous, ordered by the device's stream, and recordable; its clock ticks every microsecond or
// faster.
void StampClock(Device& device, int64_t* out);

}  // namespace duo
