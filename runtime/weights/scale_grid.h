// ScaleGrid: the scales by which a stored matrix becomes fp8 in blocks (kernels/scale_blocks.h): those that it is
// stored with, and then its codes are kept, where they are whole numbers of blocks in memory, or those of its values,
// absmax / 448 of each block of 128 x 128. They are the matrix's own, whatever pieces of it a rank holds. Values; const
// calls from any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/base/thread_pool.h"
#include "kernels/ops.h"
#include "parallel/shard.h"
#include "runtime/weights/stored_matrix.h"

namespace duo {

// Rows and columns of a block of what becomes fp8 in blocks while loading.
constexpr int kScaleBlock = 128;

class ScaleGrid {
 public:
  // Of the block that row and column lie in.
  float At(int64_t row, int64_t col) const {
    return scales_[(row / block_rows_ - first_) * across_ + col / block_cols_];
  }
  // The codes of a row's columns.
  void Codes(const StoredMatrix& matrix, int64_t row, const Range& cols, uint8_t* out) const;

 private:
  friend ScaleGrid ScaleGridOf(const StoredMatrix& matrix, const Range& rows, const Weight& weight, ThreadPool& pool);
  bool kept_ = false;  // the matrix has these codes
  int64_t block_rows_ = kScaleBlock, block_cols_ = kScaleBlock;
  int64_t first_ = 0, across_ = 0;  // the first row of blocks; blocks of a row
  std::vector<float> scales_;
};

// Of the blocks in which these rows lie. weight: what they become, by its block and group.
ScaleGrid ScaleGridOf(const StoredMatrix& matrix, const Range& rows, const Weight& weight, ThreadPool& pool);

}  // namespace duo
