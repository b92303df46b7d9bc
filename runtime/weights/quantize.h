// Weight quantisation while loading: rows of f32 values to codes and parameters in the formats of ops.h's Weight.
//   int8  symmetric per output row: code = round(x / scale), scale = absmax / 127; in groups of columns likewise, with
//         scale = f16(absmax / 127) and a minimum of 0
//   fp8   e4m3 per output row: scale = absmax / 448
//   int4  groups of 128, else 64, else 32 columns (weights.h says when 32 is the most), asymmetric:
//         scale = f16(range / 15), min = f16(min)
// The scale of a row comes from the whole row, also where a rank keeps a part of the row's columns, so that results do
// not change with the rank count: `absmax` is then the maximum over all ranks. Pure functions, thread-safe.
#pragma once

#include <cstdint>

#include "kernels/base/dtype.h"

namespace duo {

inline bool IsQuantized(DType dtype) { return dtype == DType::kF8E4M3 || dtype == DType::kI8 || dtype == DType::kI4; }

// Columns per int4 group for a matrix cut into pieces that are multiples of `unit`: the largest of 128, 64, 32 that
// divides and is at most `most`; 0 when none does.
int Int4Group(int64_t unit, int most = 128);

float AbsMax(const float* row, int64_t cols);

// Where a row's codes and parameters go.
struct RowCodes {
  uint8_t* codes = nullptr;      // Bytes(dtype, cols) bytes; f32, f16 and bf16 are plain conversions
  float* scale = nullptr;        // of fp8, and int8 without groups
  uint16_t* groups = nullptr;    // of int4 and int8 with groups: [cols / group] pairs of f16
  int8_t* subs = nullptr;        // of codes kept with two levels; values are never made into these
  uint8_t* exponents = nullptr;  // of e2m1's codes that are kept, likewise
};
// group: 0 where the type has no groups.
void QuantizeRow(DType dtype, const float* row, int64_t cols, float absmax, int group, const RowCodes& out);

}  // namespace duo
