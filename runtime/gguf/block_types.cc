#include "runtime/gguf/block_types.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "kernels/base/dtype.h"

namespace duo {
namespace {

constexpr int8_t kIq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
// e2m1 values, doubled; the scale is halved for it.
constexpr int8_t kE2M1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// In the order of GgufType.
constexpr GgufTypeInfo kTypes[] = {
    {GgufType::kF32, 0, "F32", 1, 4, 0, 0, false, false},
    {GgufType::kF16, 1, "F16", 1, 2, 0, 0, false, false},
    {GgufType::kBF16, 30, "BF16", 1, 2, 0, 0, false, false},
    {GgufType::kQ4_0, 2, "Q4_0", 32, 18, 32, 4, true, false},
    {GgufType::kQ4_1, 3, "Q4_1", 32, 20, 32, 4, true, false},
    {GgufType::kQ5_0, 6, "Q5_0", 32, 22, 32, 8, false, false},
    {GgufType::kQ5_1, 7, "Q5_1", 32, 24, 32, 8, true, false},
    {GgufType::kQ8_0, 8, "Q8_0", 32, 34, 32, 8, false, false},
    {GgufType::kQ4K, 12, "Q4_K", 256, 144, 32, 4, true, true},
    {GgufType::kQ5K, 13, "Q5_K", 256, 176, 32, 8, true, true},
    {GgufType::kQ6K, 14, "Q6_K", 256, 210, 16, 8, false, true},
    {GgufType::kIQ4NL, 20, "IQ4_NL", 32, 18, 32, 4, false, false, kIq4},
    {GgufType::kIQ4XS, 23, "IQ4_XS", 256, 136, 32, 4, false, true, kIq4},
    {GgufType::kMXFP4, 39, "MXFP4", 32, 17, 32, 4, false, false, kE2M1},
};

// Types that files may have and that are refused by name.
struct OtherType {
  uint32_t number;
  const char* name;
};
constexpr OtherType kOthers[] = {
    {9, "Q8_1"},   {10, "Q2_K"},  {11, "Q3_K"},  {15, "Q8_K"},  {16, "IQ2_XXS"}, {17, "IQ2_XS"}, {18, "IQ3_XXS"},
    {19, "IQ1_S"}, {21, "IQ3_S"}, {22, "IQ2_S"}, {24, "I8"},    {25, "I16"},     {26, "I32"},    {27, "I64"},
    {28, "F64"},   {29, "IQ1_M"}, {34, "TQ1_0"}, {35, "TQ2_0"}, {40, "NVFP4"},
};

float HalfAt(const uint8_t* p) {
  f16 half;
  std::memcpy(&half.bits, p, 2);
  return ToFloat(half);
}

// 32 nibbles: the low ones of 16 bytes, then the high ones.
template <typename Code>
void Nibbles16(const uint8_t* p, const Code& code, int8_t* out) {
  for (int i = 0; i < 16; ++i) {
    out[i] = code(p[i] & 15, i);
    out[16 + i] = code(p[i] >> 4, 16 + i);
  }
}

// Q4_0, Q4_1, Q5_0, Q5_1: scale, minimum or not, a fifth bit each or not, nibbles. Q4_0's zero of 8 becomes a minimum,
// so that its codes are those of an int4 group.
void UnpackSimple(GgufType type, const uint8_t* block, GgufBlock* out) {
  const bool min = type == GgufType::kQ4_1 || type == GgufType::kQ5_1;
  const bool fifth = type == GgufType::kQ5_0 || type == GgufType::kQ5_1;
  out->scale = HalfAt(block);
  out->min = min ? HalfAt(block + 2) : type == GgufType::kQ4_0 ? -8.0f * out->scale : 0.0f;
  const uint8_t* p = block + (min ? 4 : 2);
  uint32_t high = 0;
  if (fifth) std::memcpy(&high, p, 4);
  const int zero = type == GgufType::kQ5_0 ? 16 : 0;
  Nibbles16(
      p + (fifth ? 4 : 0), [&](int q, int i) { return static_cast<int8_t>((q | (high >> i & 1) << 4) - zero); },
      out->codes);
}

// Eight scales and minima of 6 bits in 12 bytes: 0 to 3 in the low bits of bytes 0 to 3 and 4 to 7, 4 to 7 in the
// nibbles of bytes 8 to 11 with the upper bits above those of the first eight.
void UnpackSixBits(const uint8_t* p, GgufBlock* out) {
  for (int j = 0; j < 4; ++j) {
    out->sub_scale[j] = static_cast<int8_t>(p[j] & 63);
    out->sub_min[j] = static_cast<int8_t>(p[4 + j] & 63);
    out->sub_scale[4 + j] = static_cast<int8_t>((p[8 + j] & 15) | (p[j] >> 2 & 0x30));
    out->sub_min[4 + j] = static_cast<int8_t>(p[8 + j] >> 4 | (p[4 + j] >> 2 & 0x30));
  }
}

// Q4_K and Q5_K: each 32 bytes hold the low nibbles of one group and the high ones of the next; the fifth bits of group
// g are bit g of 32 bytes. The minimum is taken off, so it is kept negative.
void UnpackK45(bool fifth, const uint8_t* block, GgufBlock* out) {
  out->scale = HalfAt(block);
  out->min = -HalfAt(block + 2);
  UnpackSixBits(block + 4, out);
  const uint8_t* high = block + 16;
  const uint8_t* low = high + (fifth ? 32 : 0);
  for (int g = 0; g < 8; ++g) {
    for (int i = 0; i < 32; ++i) {
      const int nibble = low[g / 2 * 32 + i] >> 4 * (g % 2) & 15;
      out->codes[32 * g + i] = static_cast<int8_t>(fifth ? nibble | (high[i] >> g & 1) << 4 : nibble);
    }
  }
}

// Two halves of 128: 64 bytes with the lower nibbles of 64 + 64 elements, 32 bytes with the upper pairs of bits of 4
// x 32.
void UnpackQ6K(const uint8_t* block, GgufBlock* out) {
  out->scale = HalfAt(block + 208);
  std::memcpy(out->sub_scale, block + 192, 16);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, in_half = i % 128;
    const int low = block[half * 64 + in_half % 64] >> 4 * (in_half / 64) & 15;
    const int high = block[128 + half * 32 + in_half % 32] >> 2 * (in_half / 32) & 3;
    out->codes[i] = static_cast<int8_t>((low | high << 4) - 32);
  }
}

void UnpackIq4Xs(const uint8_t* block, GgufBlock* out) {
  out->scale = HalfAt(block);
  uint16_t high;
  std::memcpy(&high, block + 2, 2);
  for (int g = 0; g < 8; ++g) {
    const int low = block[4 + g / 2] >> 4 * (g % 2) & 15;
    out->sub_scale[g] = static_cast<int8_t>((low | (high >> 2 * g & 3) << 4) - 32);
    Nibbles16(
        block + 8 + 16 * g, [](int q, int) { return static_cast<int8_t>(q); }, out->codes + 32 * g);
  }
}

// 2^(e - 128), half of e8m0's value; below 1 a subnormal.
float HalfE8M0(uint8_t e) { return BitsFloat(e < 2 ? 0x00200000u << e : uint32_t{e - 1u} << 23); }

}  // namespace

const GgufTypeInfo& Info(GgufType type) {
  const GgufTypeInfo& info = kTypes[static_cast<size_t>(type)];
  DUO_CHECK(info.type == type);
  return info;
}

std::optional<GgufType> GgufTypeOf(uint32_t number) {
  for (const GgufTypeInfo& info : kTypes) {
    if (info.number == number) return info.type;
  }
  return std::nullopt;
}

std::string NameOfGgufNumber(uint32_t number) {
  for (const OtherType& other : kOthers) {
    if (other.number == number) return other.name;
  }
  return absl::StrCat("type ", number);
}

std::string SupportedGgufTypes() {
  std::string names;
  for (const GgufTypeInfo& info : kTypes) absl::StrAppend(&names, names.empty() ? "" : ", ", info.name);
  return names;
}

void UnpackBlock(GgufType type, const uint8_t* block, GgufBlock* out) {
  const GgufTypeInfo& info = Info(type);
  DUO_CHECK_GT(info.group, 0);
  const int groups = info.elements / info.group;
  std::memset(out->sub_scale, 1, groups);
  std::memset(out->sub_min, info.has_min ? 1 : 0, groups);
  out->min = 0;
  switch (type) {
    case GgufType::kQ4_0:
    case GgufType::kQ4_1:
    case GgufType::kQ5_0:
    case GgufType::kQ5_1:
      return UnpackSimple(type, block, out);
    case GgufType::kQ8_0:
      out->scale = HalfAt(block);
      std::memcpy(out->codes, block + 2, 32);
      return;
    case GgufType::kQ4K:
    case GgufType::kQ5K:
      return UnpackK45(type == GgufType::kQ5K, block, out);
    case GgufType::kQ6K:
      return UnpackQ6K(block, out);
    case GgufType::kIQ4XS:
      return UnpackIq4Xs(block, out);
    case GgufType::kIQ4NL:
    case GgufType::kMXFP4: {
      const bool mxfp4 = type == GgufType::kMXFP4;
      out->exponent = mxfp4 ? block[0] : 0;
      out->scale = mxfp4 ? HalfE8M0(block[0]) : HalfAt(block);
      return Nibbles16(
          block + (mxfp4 ? 1 : 2), [](int q, int) { return static_cast<int8_t>(q); }, out->codes);
    }
    default:
      DUO_CHECK_MSG(false, info.name);
  }
}

void BlockValues(GgufType type, const uint8_t* row, int64_t first, int64_t count, float* out) {
  const GgufTypeInfo& info = Info(type);
  GgufBlock block;
  for (int64_t at = first, end = first + count; at < end;) {
    const int64_t index = at / info.elements, stop = std::min(end, (index + 1) * info.elements);
    UnpackBlock(type, row + index * info.bytes, &block);
    for (; at < stop; ++at) {
      const auto i = static_cast<int>(at - index * info.elements), g = i / info.group;
      const int8_t number = info.table == nullptr ? block.codes[i] : info.table[block.codes[i]];
      const float value = static_cast<float>(number) * (block.scale * static_cast<float>(block.sub_scale[g]));
      *out++ = info.has_min ? value + block.min * static_cast<float>(block.sub_min[g]) : value;
    }
  }
}

}  // namespace duo
