// One head's key or value vector of one token, to and from its stored form. The bytes are those of kernels/kv_codec.h.
// Pure, thread-safe.
#pragma once

#include <cstdint>

#include "kernels/cpu/simd.h"
#include "kernels/kv_codec.h"

namespace duo::cpu {

constexpr int kMaxHeadDim = 256;

// How a format's codes are made into numbers.
Code CodeOf(KvFormat format);

// x [d] f32 to codes [KvCodeBytes] and params [KvParamBytes], and back; params may be null where the format has none.
void EncodeKvVector(KvFormat format, const float* x, int d, uint8_t* codes, uint8_t* params);
void DecodeKvVector(KvFormat format, const uint8_t* codes, const uint8_t* params, int d, float* x);

}  // namespace duo::cpu
