// Linear: kernels of our own for a few rows (memory-bound), and on Hopper for codes and some hundred rows; cuBLASLt for
// many. Weights that are not bf16 are turned to bf16 a slice of outputs at a time: activations stay 16-bit, so that
// prefill and decode round alike, and at a thousand rows and more the detour costs a few per cent of the product.
#include <algorithm>

#include "kernels/alike_rows.h"
#include "kernels/backend.h"
#include "kernels/cuda/linear/dequantize.h"
#include "kernels/cuda/linear/gemm.h"
#include "kernels/cuda/linear/linear_pieces.h"
#include "kernels/cuda/linear/linear_quads.h"
#include "kernels/cuda/linear/linear_scale_blocks.h"
#include "kernels/cuda/linear/linear_small.h"
#include "kernels/cuda/linear/linear_tiles.h"

namespace duo::cuda {
namespace {

constexpr int64_t kSliceBytes = int64_t{64} << 20;
// bf16 up to here: cuBLASLt takes as long for 16 rows as for one, the small kernel 8 % less for one and more for 8.
// Where each row shall have the bits that it has alone, it takes those, too.
constexpr int64_t kBf16Rows = 4;
// Where there is no kernel between: codes read three times by the small kernel cost no more than once dequantised (read
// 1, write 2, read 2 bytes).
constexpr int64_t kCodedRows = 3 * kSmallRows;

int64_t SliceRows(const Weight& weight) {
  return std::min(weight.rows, std::max<int64_t>(16, kSliceBytes / (2 * weight.cols) / 16 * 16));
}
// More rows than these are worth the detour.
constexpr int64_t kTiledRows = kTileRows;

bool UsesTiles(const Device& device, int64_t rows, const Weight& weight) {
  const bool small = SmallLinearFits(weight) || ScaleBlocksFit(weight);
  return rows <= kTiledRows && (rows > kSmallRows || !small) && TiledLinearFits(device, weight);
}
bool UsesScaleBlocks(const Device& device, int64_t rows, const Weight& weight) {
  return rows <= kCodedRows && ScaleBlocksFit(weight) && !UsesTiles(device, rows, weight);
}
// They round x to 16 bits, which bf16 outputs do not show. MXFP4's weights are exact in bf16, and so must its f32 be.
bool HasPieceKernels(const Weight& weight, DType out) {
  return PiecesFit(weight) && !(weight.table == CodeTable::kE2M1 && out == DType::kF32);
}
bool UsesPieces(int64_t rows, const Weight& weight, DType out) {
  return rows <= kPieceRows && HasPieceKernels(weight, out);
}
bool HasQuads(const Device& device, const Weight& weight, DType out) {
  return HasPieceKernels(weight, out) && QuadsFit(device, weight);
}
// Behind UsesPieces, whose bits they have: answers of several sequences take less time elsewhere.
bool UsesQuads(const Device& device, int64_t rows, const Weight& weight, DType out) {
  return device.rows_alike() && rows <= kQuadRows && HasQuads(device, weight, out);
}
bool UsesSmall(const Device& device, int64_t rows, const Weight& weight) {
  const int64_t most_bf16 = device.rows_alike() ? kAlikeRows : kBf16Rows;
  const int64_t most = weight.dtype == DType::kBF16 ? most_bf16 : IsCoded(weight.dtype) ? kCodedRows : kSmallRows;
  return rows <= most && SmallLinearFits(weight) && !UsesTiles(device, rows, weight);
}

}  // namespace

size_t LinearScratchBytes(const Device& device, int64_t rows, const Weight& weight) {
  // A plan for `rows` must also serve fewer of them.
  size_t bytes = PiecesFit(weight)        ? PiecesScratchBytes(device, weight)
                 : ScaleBlocksFit(weight) ? ScaleBlocksScratchBytes(device, weight)
                                          : 0;
  if (rows > kPieceRows && PiecesFit(weight)) bytes = std::max(bytes, QuadsScratchBytes(device, weight));
  if (SmallLinearFits(weight)) {
    bytes = std::max(bytes, SmallLinearScratchBytes(device, std::min<int64_t>(rows, kSmallRows), weight));
  }
  if (UsesTiles(device, std::min(rows, kTiledRows), weight))
    bytes = std::max(bytes, TiledLinearScratchBytes(rows, weight));
  if (weight.dtype != DType::kBF16 && !UsesSmall(device, rows, weight) && !UsesScaleBlocks(device, rows, weight) &&
      !UsesTiles(device, rows, weight)) {
    bytes = std::max(bytes, Arena::Rounded(SliceRows(weight) * weight.cols * sizeof(bf16)));
  }
  return bytes;
}

bool LinearAlike(const Device& device, const Weight& weight) {
  static_assert(kAlikeRows <= kQuadRows);
  if (ScaleBlocksFit(weight)) return ScaleBlocksAlike(device, weight);
  if (UsesPieces(1, weight, DType::kF32)) return HasQuads(device, weight, DType::kF32);
  return SmallLinearFits(weight) && !UsesTiles(device, kAlikeRows, weight) && SmallLinearAlike(device, weight);
}

void Linear(Device& device, View out, View x, const Weight& weight, Arena& scratch) {
  if (UsesPieces(x.rows, weight, out.dtype)) return PiecesLinear(device, out, x, weight, scratch);
  if (UsesQuads(device, x.rows, weight, out.dtype)) return QuadsLinear(device, out, x, weight, scratch);
  if (UsesSmall(device, x.rows, weight)) {
    for (int64_t row = 0; row < x.rows; row += kSmallRows) {
      const int64_t count = std::min<int64_t>(kSmallRows, x.rows - row);
      SmallLinear(device, out.Rows(row, count), x.Rows(row, count), weight, scratch);
    }
    return;
  }
  if (UsesScaleBlocks(device, x.rows, weight)) {
    for (int64_t row = 0; row < x.rows; row += kScaleBlockRows) {
      const int64_t count = std::min<int64_t>(kScaleBlockRows, x.rows - row);
      ScaleBlocksLinear(device, out.Rows(row, count), x.Rows(row, count), weight, scratch);
    }
    return;
  }
  if (UsesTiles(device, x.rows, weight)) {
    TiledLinear(device, out, x, weight, scratch);
    return;
  }
  const size_t mark = scratch.used();
  if (weight.dtype == DType::kBF16) {
    Gemm(device, out, x, static_cast<const bf16*>(weight.data), WeightIs::kTransposed);
  } else {
    const int64_t slice = SliceRows(weight);
    auto* values = static_cast<bf16*>(scratch.Take(slice * weight.cols * sizeof(bf16)));
    for (int64_t first = 0; first < weight.rows; first += slice) {
      const int64_t count = std::min(slice, weight.rows - first);
      Dequantize(device, values, weight, first, count);
      Gemm(device, out.Cols(first, count), x, values, WeightIs::kTransposed);
    }
  }
  if (weight.bias != nullptr) AddBias(device, out, weight.bias);
  scratch.Rewind(mark);
}

void LinearSwiGlu(Device& device, View out, View gate_up, View x, const Weight& weight, Arena& scratch) {
  if (UsesPieces(x.rows, weight, out.dtype)) return PiecesLinearGated(device, out, x, weight, scratch);
  if (UsesQuads(device, x.rows, weight, out.dtype)) return QuadsLinearGated(device, out, x, weight, scratch);
  if (x.rows <= kSmallRows && UsesSmall(device, x.rows, weight))
    return SmallLinearGated(device, out, x, weight, scratch);
  if (x.rows <= kScaleBlockRows && UsesScaleBlocks(device, x.rows, weight))
    return ScaleBlocksLinearGated(device, out, x, weight, scratch);
  cuda::Linear(device, gate_up, x, weight, scratch);
  cuda::SwiGlu(device, out, gate_up);
}

}  // namespace duo::cuda
