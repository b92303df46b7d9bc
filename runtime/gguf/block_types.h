// The element types of GGUF files: their names and sizes, and what the blocks of the quantised ones hold. A row of a
// tensor is a sequence of blocks, each with its own scales. All quantised types that are read here have one form:
//
//   value = code * (scale * sub_scale) + min * sub_min
//
// with scale and min of the block, and sub_scale and sub_min of a group of 16 or 32 elements within it. Types of one
// level have sub codes of 1, symmetric types no min. The codes are as stored, but that types without a minimum have
// their zero point taken off (q - 8, q - 16, q - 32). Of IQ4_NL, IQ4_XS and MXFP4 a code is the place of a number in a
// table. All products are exact in f32, so every order of evaluation gives the same.
//
// Constant data and pure functions, any thread. Block bytes need no alignment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace duo {

enum class GgufType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ4K,
  kQ5K,
  kQ6K,
  kIQ4NL,
  kIQ4XS,
  kMXFP4,
};

struct GgufTypeInfo {
  GgufType type;
  uint32_t number;  // in the file
  const char* name;
  int elements;  // of a block; 1 for the float types
  int bytes;     // of a block
  int group;     // elements that share a sub scale; 0 for the float types
  int bits;      // that a code takes as the form above has it: 4 where all are from 0 to 15, else 8
  bool has_min;
  bool two_levels;
  const int8_t* table = nullptr;  // [16], what the codes stand for; null: themselves
};

const GgufTypeInfo& Info(GgufType type);
inline const char* Name(GgufType type) { return Info(type).name; }
// Of a number that a file gives; nothing where it is none of the above.
std::optional<GgufType> GgufTypeOf(uint32_t number);
// What a number that is none of the above is called, "Q2_K" or "type 77", and the names of those above.
std::string NameOfGgufNumber(uint32_t number);
std::string SupportedGgufTypes();

constexpr int kMaxBlock = 256;  // elements
constexpr int kMaxGroups = 16;  // of a block

// A block taken apart.
struct GgufBlock {
  float scale = 0, min = 0;  // what f16 holds, but for MXFP4's powers of two
  uint8_t exponent = 0;      // of these: scale = 2^(exponent - 128), for the table has the doubles of e2m1's numbers
  int8_t sub_scale[kMaxGroups], sub_min[kMaxGroups];
  int8_t codes[kMaxBlock];
};
// type: not one of the floats.
void UnpackBlock(GgufType type, const uint8_t* block, GgufBlock* out);

// Values of a quantised row's elements [first, first + count), which need not begin or end with a block.
void BlockValues(GgufType type, const uint8_t* row, int64_t first, int64_t count, float* out);

}  // namespace duo
