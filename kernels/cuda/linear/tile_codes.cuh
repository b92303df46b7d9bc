// linear_tiles.cuh: which column of x meets which code, and codes -> bf16 pairs in the registers of a product.
//
// A k-block is 64 bytes of codes of an output: 64 columns of 8 bits or 128 of 4. Lane quarter c of a warp holds 16 of
// the bytes, so kLaneColumns consecutive columns, and meets four of them in each step of 16: two in each half of the
// step's columns (2 c and the next, 8 + 2 c and the next). x is laid out alike (InFour), so codes need no moving.
#pragma once

#include "kernels/cuda/linear/weight_value.cuh"
#include "kernels/cuda/primitives.cuh"

namespace duo::cuda {

// kLevels: of scale. 0: a scale a row, which is left to the end; 1: scales and minima of groups of columns, of fp8
// scales of blocks; 2: of groups and of blocks of groups.
template <DType kOfType, int kScaleLevels, CodeTable kOfTable = CodeTable::kNone>
struct TileCodes {
  static constexpr DType kType = kOfType;
  static constexpr int kLevels = kScaleLevels;
  static constexpr CodeTable kTable = kOfTable;
  static constexpr bool kGrouped = kLevels > 0;
  static constexpr bool kNibbles = kType == DType::kI4;
  static constexpr int kSubs = kNibbles ? 2 : 1;  // blocks of 64 columns in a k-block
  static constexpr int kColumns = 64 * kSubs, kSteps = kColumns / 16;
  static constexpr int kLaneColumns = kColumns / 4;
  // fp8 codes become their value times 2^-120 (F8HighBytes): half of that is taken from x, half from the result. With a
  // block's scale they become their value.
  static constexpr bool kShifted = kType == DType::kF8E4M3 && !kGrouped;
  static constexpr float kXFactor = kShifted ? 0x1p64f : 1.0f;
  static constexpr float kOutFactor = kShifted ? 0x1p56f : 1.0f;

  // Of the four columns that a lane meets in a step: the number of column `j` of half `half`.
  __host__ __device__ static constexpr int InFour(int half, int j) { return kNibbles ? 2 * half + j : 2 * j + half; }

  // A lane's group of one output.
  struct Group {
    float scale = 1, min = 0;
  };

  // The pairs of both halves of step `step`, of a lane's 16 bytes of codes.
  __device__ static __forceinline__ void Pairs(const uint4& codes, int step, const Group& group, uint32_t& first,
                                               uint32_t& second) {
    const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
    constexpr uint32_t kUnit = 0x4b000000;  // 2^23, whose last bit counts 1
    if constexpr (kTable != CodeTable::kNone) {
      const uint32_t numbers = FourNumbers<kTable>(words[step / 2] >> (step % 2 * 16));
      float v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) v[i] = fmaf(Int8Value(numbers, i), group.scale, group.min);
      first = PackBf16(v[0], v[1]);
      second = PackBf16(v[2], v[3]);
    } else if constexpr (kNibbles) {
      const uint32_t four = words[step / 2] >> (step % 2 * 16);
      // Each nibble where it lies is its value times a power of 16, exactly.
      const float scales[4] = {group.scale, group.scale * 0x1p-4f, group.scale * 0x1p-8f, group.scale * 0x1p-12f};
      float v[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        v[i] = fmaf(__uint_as_float((four & (0xfu << (4 * i))) | kUnit) - 0x1p23f, scales[i], group.min);
      }
      first = PackBf16(v[0], v[1]);
      second = PackBf16(v[2], v[3]);
    } else if constexpr (kType == DType::kF8E4M3 && kGrouped) {
      const auto scaled = [&](uint32_t pair) {
        return PackBf16(LowBf16(pair) * 0x1p120f * group.scale, HighBf16(pair) * 0x1p120f * group.scale);
      };
      first = scaled(F8HighBytes(words[step] << 8));
      second = scaled(F8HighBytes(words[step]));
    } else if constexpr (kType == DType::kF8E4M3) {
      first = F8HighBytes(words[step] << 8);
      second = F8HighBytes(words[step]);
    } else {
      const uint32_t from0 = words[step] ^ 0x80808080u;  // code + 128
      if constexpr (kGrouped) {
        float v[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = fmaf(Int8Value(words[step], i), group.scale, group.min);
        first = PackBf16(v[0], v[2]);
        second = PackBf16(v[1], v[3]);
      } else {
        first = BytesMinus128(from0);
        second = BytesMinus128(from0 >> 8);
      }
    }
  }
};

// The groups of one output that a lane meets: where they begin, and the next of them, fetched a k-block ahead of its
// use.
template <typename Codes>
struct GroupReader {
  static constexpr int kLevels = Codes::kLevels;
  static constexpr bool kPowers = Codes::kTable == CodeTable::kE2M1;
  static constexpr bool kScaleBlocks = Codes::kType == DType::kF8E4M3;
  uint32_t first_pair, first_sub = 0;  // of the output
  uint32_t pair = 0, sub = 0;

  __device__ __forceinline__ void Start(const Weight& w, int64_t output) {
    if constexpr (kScaleBlocks) {
      first_pair = static_cast<uint32_t>(output / w.block * ScalesAcross(w));
      return;
    }
    first_pair = static_cast<uint32_t>(output * (w.cols / (kLevels == 2 ? w.block : w.group)));
    if constexpr (kLevels == 2) first_sub = static_cast<uint32_t>(output * (w.cols / w.group));
  }
  // pair_shift, group_shift: log2 of the columns of a pair and of a group.
  __device__ __forceinline__ void Load(const Weight& w, int column, int pair_shift, int group_shift) {
    if constexpr (kScaleBlocks) {
      pair = __ldg(reinterpret_cast<const uint32_t*>(w.scales) + (first_pair + (column >> pair_shift)));
    } else if constexpr (kPowers) {
      pair = __ldg(w.exponents + (first_pair + (column >> pair_shift)));
    } else {
      pair = __ldg(reinterpret_cast<const uint32_t*>(w.groups) + (first_pair + (column >> pair_shift)));
    }
    if constexpr (kLevels == 2) {
      sub = __ldg(reinterpret_cast<const uint16_t*>(w.subs) + (first_sub + (column >> group_shift)));
    }
  }
  template <typename Group>
  __device__ __forceinline__ Group Value() const {
    if constexpr (kScaleBlocks) return Group{__uint_as_float(pair), 0};
    if constexpr (kPowers) return Group{PowerOf(pair) * kTableUnit<Codes::kTable>, 0};
    Group of = {F16Value(pair), F16Value(pair >> 16)};
    if constexpr (kLevels == 2) {
      of.scale *= Int8Value(sub, 0);
      of.min *= Int8Value(sub, 1);
    }
    return of;
  }
};

}  // namespace duo::cuda
