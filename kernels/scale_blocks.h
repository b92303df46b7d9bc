// fp8 weights with a scale for each block of rows and columns, as checkpoints have them (ops.h's Weight): where a
// value's scale is. Pure functions, one source for host and device code, any thread.
#pragma once

#include "kernels/base/math.h"
#include "kernels/ops.h"

namespace duo {

// Codes e4m3, scales [ceil(rows / block)][ceil(cols / group)] f32: value(r, c) = code * scale[r / block][c / group].
// `block` and `group` are powers of two up to 128; the last block may be cut off.
DUO_HD inline bool HasScaleBlocks(const Weight& w) { return w.dtype == DType::kF8E4M3 && w.group > 0; }

// Of a row of blocks.
DUO_HD inline int64_t ScalesAcross(const Weight& w) { return CeilDiv(w.cols, int64_t{w.group}); }
DUO_HD inline int64_t ScaleCount(const Weight& w) { return CeilDiv(w.rows, int64_t{w.block}) * ScalesAcross(w); }

DUO_HD inline const float* ScalesOfRow(const Weight& w, int64_t row) {
  return w.scales + row / w.block * ScalesAcross(w);
}

}  // namespace duo
