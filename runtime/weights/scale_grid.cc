#include "runtime/weights/scale_grid.h"

#include <algorithm>

#include "kernels/base/math.h"
#include "runtime/weights/quantize.h"

namespace duo {

void ScaleGrid::Codes(const StoredMatrix& matrix, int64_t row, const Range& cols, uint8_t* out) const {
  if (kept_) return matrix.Codes(row, cols.begin, cols.size(), out);
  std::vector<float> values(cols.size());
  matrix.Values(row, cols.begin, cols.size(), values.data());
  for (int64_t c = 0; c < cols.size(); ++c) {
    const float scale = At(row, cols.begin + c);
    out[c] = FloatToF8(scale > 0.0f ? values[c] * (1.0f / scale) : 0.0f);
  }
}

ScaleGrid ScaleGridOf(const StoredMatrix& matrix, const Range& rows, const Weight& weight, ThreadPool& pool) {
  ScaleGrid grid;
  // A block in memory has one scale, so smaller stored ones are decoded and coded again.
  grid.kept_ =
      matrix.in_scale_blocks() && matrix.block_rows() % weight.block == 0 && matrix.group() % weight.group == 0;
  if (grid.kept_) grid.block_rows_ = matrix.block_rows(), grid.block_cols_ = matrix.group();
  grid.first_ = rows.begin / grid.block_rows_;
  grid.across_ = CeilDiv(matrix.cols(), grid.block_cols_);
  const int64_t down = CeilDiv(rows.end, grid.block_rows_) - grid.first_;
  grid.scales_.resize(std::max<int64_t>(0, down) * grid.across_);
  pool.ParallelFor(std::max<int64_t>(0, down), [&](int64_t b, int) {
    float* scales = grid.scales_.data() + b * grid.across_;
    if (grid.kept_) {
      for (int64_t c = 0; c < grid.across_; ++c) scales[c] = matrix.BlockScale(grid.first_ + b, c);
      return;
    }
    std::vector<float> values(matrix.cols());
    const int64_t begin = (grid.first_ + b) * grid.block_rows_, end = std::min(begin + grid.block_rows_, matrix.rows());
    for (int64_t row = begin; row < end; ++row) {
      matrix.Values(row, 0, matrix.cols(), values.data());
      for (int64_t c = 0; c < grid.across_; ++c) {
        const int64_t first = c * grid.block_cols_, count = std::min(grid.block_cols_, matrix.cols() - first);
        scales[c] = std::max(scales[c], AbsMax(values.data() + first, count) / 448.0f);
      }
    }
  });
  return grid;
}

}  // namespace duo
