// What this machine can do with a device's threads: the rates that the CPU backend's benchmarks are measured against.
// Each takes about a third of a second. CPU devices only.
#pragma once

#include "kernels/base/device.h"

namespace duo {

// FLOP/s of f32 fused multiply-adds on registers (two FLOP each), with the instruction set that the kernels use.
double MeasureFmaRate(Device& device);
// Bytes/s of reading memory that is far larger than the caches of a core, each thread a part of its own.
double MeasureReadBandwidth(Device& device);

}  // namespace duo
