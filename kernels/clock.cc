#include "kernels/clock.h"

#include "kernels/backend.h"

namespace duo {

void StampClock(Device& device, int64_t* out) { BackendOf(device).StampClock(device, out); }

}  // namespace duo
