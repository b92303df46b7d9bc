// CardId: which GPU a device is, whatever process asks. Ordinals do not tell: a process that may see one GPU only calls
// it number 0.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/base/device.h"

namespace duo {

using CardId = std::array<uint8_t, 16>;  // its UUID

CardId CardOf(const Device& device);  // zeros: the CPU

}  // namespace duo
