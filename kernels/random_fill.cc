#include "kernels/random_fill.h"

#include <cmath>

#include "kernels/backend.h"
#include "kernels/scale_blocks.h"

namespace duo {
namespace {

FillKind FillKindOf(KvFormat format) {
  return format == KvFormat::kF32    ? FillKind::kF32
         : format == KvFormat::kBF16 ? FillKind::kBF16
         : format == KvFormat::kFp8  ? FillKind::kE4M3
                                     : FillKind::kCode;
}

}  // namespace

void FillElements(Device& device, const FillRun& run, uint64_t seed) {
  if (run.count == 0 || run.runs == 0) return;
  BackendOf(device).FillElements(device, run, seed);
}

void FillFloats(Device& device, float* data, int64_t count, float value) {
  FillRun run;
  run.data = reinterpret_cast<uint8_t*>(data);
  run.count = count;
  run.kind = FillKind::kConstantF32;
  run.amplitude = value;
  FillElements(device, run, 0);
}

void FillWeight(Device& device, const Weight& weight, uint64_t seed, float amplitude) {
  FillRun run;
  run.data = static_cast<uint8_t*>(const_cast<void*>(weight.data));
  run.amplitude = amplitude;
  run.count = weight.rows * weight.cols;
  run.kind = FillKindOf(weight.dtype);
  if (run.kind == FillKind::kCode) run.count = Bytes(weight.dtype, run.count);
  FillElements(device, run, seed);
  if (weight.scales != nullptr) {
    FillFloats(device, const_cast<float*>(weight.scales), HasScaleBlocks(weight) ? ScaleCount(weight) : weight.rows,
               amplitude / (weight.dtype == DType::kI8 ? 127.0f : 448.0f));
  }
  if (weight.groups != nullptr) {
    FillRun groups;
    groups.data = reinterpret_cast<uint8_t*>(const_cast<uint16_t*>(weight.groups));
    groups.count = weight.rows * (weight.cols / weight.pair_cols());
    groups.kind = FillKind::kParams;
    groups.params = weight.dtype == DType::kI8 ? KvParams{ToF16(amplitude / 127.5f), f16{0}}  // signed codes
                                               : RandomParams(KvFormat::kInt4, amplitude);
    FillElements(device, groups, seed);
  }
  if (weight.exponents != nullptr) {  // random codes of e2m1 are 2.93 in the mean square's root, uniform ones 0.58
    const int exponent = 127 + static_cast<int>(std::lround(std::log2(amplitude * (0.5774f / 2.926f))));
    device.Fill(const_cast<uint8_t*>(weight.exponents), static_cast<uint8_t>(exponent),
                weight.rows * (weight.cols / weight.group));
  }
  if (weight.subs != nullptr) {  // 1 and 1 for each group: the pair of its block as it is; two groups a write
    const int64_t count = weight.rows * (weight.cols / weight.group);
    DUO_CHECK_EQ(count % 2, 0);
    FillRun subs;
    subs.data = reinterpret_cast<uint8_t*>(const_cast<int8_t*>(weight.subs));
    subs.count = count / 2;
    subs.kind = FillKind::kParams;
    subs.params = {f16{0x0101}, f16{0x0101}};
    FillElements(device, subs, seed);
  }
  if (weight.bias != nullptr) FillFloats(device, const_cast<float*>(weight.bias), weight.rows, amplitude);
}

void FillPages(Device& device, const PagedKv& kv, int64_t first_id, int64_t ids, uint64_t seed) {
  const KvFormat format = kv.page.format;
  const int64_t pages = ids * kv.num_slots, codes = int64_t{2} * kPageTokens * kv.page.code_bytes();
  for (int head = 0; head < kv.num_heads; ++head) {
    FillRun run;
    run.data = kv.base + head * kv.head_stride + first_id * kv.id_stride();
    run.stride = kv.page.page_bytes();
    run.runs = pages;
    run.kind = FillKindOf(format);
    run.count = run.kind == FillKind::kF32 ? codes / 4 : run.kind == FillKind::kBF16 ? codes / 2 : codes;
    FillElements(device, run, SplitMix64(seed + head));
    if (kv.page.param_bytes() == 0) continue;
    run.data += codes;
    run.count = 2 * kPageTokens;
    run.kind = format == KvFormat::kFp8 ? FillKind::kParamScale : FillKind::kParams;
    run.params = RandomParams(format, 1.0f);
    FillElements(device, run, 0);
  }
}

void FillRing(Device& device, const RingKv& kv, int ring, uint64_t seed) {
  FillRun run;
  run.data = kv.base + ring * kv.ring_stride;
  run.kind = FillKindOf(kv.format);
  run.count = kv.num_heads * kv.ring_bytes() / (kv.format == KvFormat::kF32 ? 4 : 2);
  FillElements(device, run, seed);
}

}  // namespace duo
