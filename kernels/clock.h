// The device's clock, for timing the parts of a step from inside it.
#pragma once

#include <cstdint>

#include "kernels/base/device.h"

namespace duo {

// out[0] (device memory) = nanoseconds, once all work before has ended, on a clock whose differences mean something and
// whose values do not. On CUDA the call is asynchronous, ordered by the device's stream, and recordable; the GPU's
// clock ticks every microsecond or faster.
void StampClock(Device& device, int64_t* out);

}  // namespace duo
