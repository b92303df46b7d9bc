// The rates of this machine with a device's threads, against which the CPU backend's benchmarks are measured. Each
// function takes about a third of a second. CPU devices only.
#pragma once

#include "kernels/base/device.h"

namespace duo {

// FLOP/s of f32 fused multiply-adds on registers (two FLOP each), with the instruction set that the kernels use.
double MeasureFmaRate(Device& device);
// Bytes/s of reading memory that is far larger than the caches of a core, each thread a part of its own.
double MeasureReadBandwidth(Device& device);
// FLOP/s of the GEMM library itself with all threads of the device, and of Linear with bf16 weights, at one shape:
// [rows, cols] times [outs, cols] transposed.
double MeasureLibraryGemmRate(Device& device, int64_t rows, int64_t outs, int64_t cols);
double MeasureLinearRate(Device& device, int64_t rows, int64_t outs, int64_t cols);
// FLOP/s of AttendPrefill, 4 * head_dim for each visible (row, key) pair and query head: `rows` rows of two KV heads
// after a history of `history` f32 keys.
double MeasureAttentionRate(Device& device, int head_dim, int group, int rows, int history);

}  // namespace duo
