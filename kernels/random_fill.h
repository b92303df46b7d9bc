// Random weights and KV codes for benchmarks and capacity proofs: finite, never zero as a whole, the same on both
// backends (element i of a fill follows from SplitMix64(seed + i)). Asynchronous on CUDA, in the stream's order.
#pragma once

#include "kernels/attention.h"
#include "kernels/ops.h"

namespace duo {

// Codes and parameters of a weight matrix, so that values are about uniform in +- amplitude. The matrix is written
// through the const pointers by which the kernels read it.
void FillWeight(Device& device, const Weight& weight, uint64_t seed, float amplitude);
// count f32 values, all `value`.
void FillFloats(Device& device, float* data, int64_t count, float value);
// Every page [first_id, first_id + ids) of every head: values about uniform in +- 1.
void FillPages(Device& device, const PagedKv& kv, int64_t first_id, int64_t ids, uint64_t seed);
// One ring set's rings of this layer: values about uniform in +- 1.
void FillRing(Device& device, const RingKv& kv, int ring, uint64_t seed);

// --- What both backends evaluate for one byte, or one 16- or 32-bit element, i.
DUO_HD inline float RandomUnit(uint64_t seed, uint64_t i) {  // uniform in [-1, 1)
  return static_cast<float>(static_cast<int64_t>(SplitMix64(seed + i) >> 40)) * 1.1920928955078125e-7f - 1.0f;
}
// A code byte of a format whose value is code * scale (+ min): any byte, but no NaN of e4m3.
DUO_HD inline uint8_t RandomCode(bool e4m3, uint64_t seed, uint64_t i) {
  const auto byte = static_cast<uint8_t>(SplitMix64(seed + i) >> 56);
  return e4m3 && (byte & 0x7f) == 0x7f ? static_cast<uint8_t>(byte ^ 0x40) : byte;
}
// scale and min that bring a format's codes to about +- amplitude.
DUO_HD inline KvParams RandomParams(KvFormat format, float amplitude) {
  switch (format) {
    case KvFormat::kFp8:
      return {ToF16(amplitude / 448.0f), f16{0}};
    case KvFormat::kInt8:
      return {ToF16(amplitude / 127.5f), ToF16(-amplitude)};
    default:
      return {ToF16(amplitude / 7.5f), ToF16(-amplitude)};
  }
}

// Fills raw elements: the one primitive that each backend defines.
enum class FillKind : uint8_t { kF32, kF16, kBF16, kCode, kE4M3, kConstantF32, kParams, kParamScale };
// Of weights; elements of int4 are bytes of two codes.
constexpr FillKind FillKindOf(DType type) {
  return type == DType::kF32      ? FillKind::kF32
         : type == DType::kF16    ? FillKind::kF16
         : type == DType::kBF16   ? FillKind::kBF16
         : type == DType::kF8E4M3 ? FillKind::kE4M3
                                  : FillKind::kCode;
}
struct FillRun {
  uint8_t* data = nullptr;
  int64_t count = 0;   // elements (kParams: pairs)
  int64_t stride = 0;  // bytes from one of `runs` runs to the next
  int64_t runs = 1;
  FillKind kind = FillKind::kF32;
  float amplitude = 1;  // f32, f16, bf16; the constant
  KvParams params{};    // kParams, kParamScale
};
void FillElements(Device& device, const FillRun& run, uint64_t seed);

DUO_HD inline void FillElement(const FillRun& run, uint64_t seed, int64_t at) {
  const int64_t r = at / run.count, i = at % run.count;
  uint8_t* data = run.data + r * run.stride;
  switch (run.kind) {
    case FillKind::kF32:
      reinterpret_cast<float*>(data)[i] = run.amplitude * RandomUnit(seed, at);
      return;
    case FillKind::kF16:
      reinterpret_cast<f16*>(data)[i] = ToF16(run.amplitude * RandomUnit(seed, at));
      return;
    case FillKind::kBF16:
      reinterpret_cast<bf16*>(data)[i] = ToBf16(run.amplitude * RandomUnit(seed, at));
      return;
    case FillKind::kCode:
    case FillKind::kE4M3:
      data[i] = RandomCode(run.kind == FillKind::kE4M3, seed, at);
      return;
    case FillKind::kConstantF32:
      reinterpret_cast<float*>(data)[i] = run.amplitude;
      return;
    case FillKind::kParams:
      reinterpret_cast<KvParams*>(data)[i] = run.params;
      return;
    case FillKind::kParamScale:
      reinterpret_cast<f16*>(data)[i] = run.params.scale;
      return;
  }
}

}  // namespace duo
