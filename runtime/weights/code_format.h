// CodeFormat: how a matrix's codes and what belongs to them are laid out in memory (Weight in kernels/ops.h), and how
// the formats of several tensors that become one matrix come together. Values and pure functions, any thread.
#pragma once

#include <cstdint>
#include <optional>

#include "kernels/ops.h"

namespace duo {

struct CodeFormat {
  DType type = DType::kBF16;
  int group = 0;                       // columns that share a scale; 0: none do, and int8 and fp8 have a scale a row
  int block = 0;                       // two levels of scale: columns of a block of groups; 0: one level. fp8: rows
                                       // that share a scale
  CodeTable table = CodeTable::kNone;  // of int4
  bool operator==(const CodeFormat&) const = default;
  bool scale_blocks() const { return type == DType::kF8E4M3 && group > 0; }  // kernels/scale_blocks.h
};

// fp8 with a scale for each block of so many rows and columns. In memory a block has a power of two of either, which
// divides the stored one's; nothing where that leaves less than 16 columns.
std::optional<CodeFormat> ScaleBlockFormat(int block_rows, int block_cols);

// A format that holds the values of both exactly: of groups the smaller, of codes the wider. Row scales and groups, or
// floats and codes, come together in f32 alone; e2m1 with anything else as the bf16 that holds it.
CodeFormat Join(const CodeFormat& a, const CodeFormat& b);

// The same with groups and blocks small enough to lie within pieces of columns that are multiples of `unit`; nothing
// where no group does (int4: of 32 columns or more, int8: of 16). Where a table's codes do not, what holds their
// numbers may: int8, or for e2m1 bf16. Of fp8 in blocks the last one of a row may be cut off, so `unit` is of pieces
// that others follow.
std::optional<CodeFormat> FitTo(CodeFormat format, int64_t unit);

// The largest power of two up to 256 that divides, so that no block of a file is cut where columns are cut at
// multiples.
inline int64_t GroupUnit(int64_t cols) {
  int64_t unit = 1;
  while (unit < 256 && cols % (2 * unit) == 0) unit *= 2;
  return unit;
}

}  // namespace duo
