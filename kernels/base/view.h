// View: a row-major matrix in memory that something else owns, the one tensor type of the kernels. A step's data is
// always [rows, columns], heads side by side in the columns. Views are copied freely; the Buffer's maker owns the
// bytes.
#pragma once

#include <cstdint>

#include "kernels/base/check.h"
#include "kernels/base/dtype.h"

namespace duo {

struct View {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements from one row to the next; cols when dense

  View() = default;
  View(void* data, DType dtype, int64_t rows, int64_t cols)
      : data(data), dtype(dtype), rows(rows), cols(cols), stride(cols) {}
  View(void* data, DType dtype, int64_t rows, int64_t cols, int64_t stride)
      : data(data), dtype(dtype), rows(rows), cols(cols), stride(stride) {}

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }
  // The columns [first, first + count) of every row; byte-addressed types only.
  View Cols(int64_t first, int64_t count) const {
    DUO_CHECK_LE(first + count, cols);
    return View(static_cast<char*>(data) + Bytes(dtype, first), dtype, rows, count, stride);
  }
  View Rows(int64_t first, int64_t count) const {
    DUO_CHECK_LE(first + count, rows);
    return View(static_cast<char*>(data) + Bytes(dtype, first * stride), dtype, count, cols, stride);
  }
  bool empty() const { return rows == 0 || cols == 0; }
};

}  // namespace duo
