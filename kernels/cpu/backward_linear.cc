// dx = dout W: blocks of rows by blocks of W's columns, summed over W's rows a panel at a time by oneDNN's
// single-threaded sgemm, as kernels/cpu/linear.cc does the product with W transposed.
#include <omp.h>

#include <algorithm>

#include "dnnl.h"
#include "kernels/backend.h"
#include "kernels/base/math.h"
#include "kernels/cpu/weight_decode.h"

namespace duo::cpu {
namespace {

constexpr int64_t kPanelRows = 512;   // weight rows decoded at a time: with the columns, 1 MiB of f32
constexpr int64_t kPanelCols = 512;   // columns of one work item; even, as int4 rows are decoded in pairs
constexpr int64_t kBlockRows = 1024;  // gradient rows of one work item

size_t PanelBytes(const Weight& w) {
  if (w.dtype == DType::kF32) return 0;
  return Arena::Rounded(std::min(kPanelRows, w.rows) * std::min(kPanelCols, w.cols) * sizeof(float));
}

}  // namespace

size_t LinearBackwardScratchBytes(const Device& device, int64_t, const Weight& weight) {
  return PanelBytes(weight) * device.pool().threads();
}

void LinearBackward(Device& device, View dx, View dout, const Weight& w, Arena& scratch) {
  const size_t mark = scratch.used(), panel_bytes = PanelBytes(w);
  char* panels = static_cast<char*>(scratch.Take(panel_bytes * device.pool().threads()));
  const int64_t row_blocks = CeilDiv(dx.rows, kBlockRows);
  device.pool().ParallelFor(row_blocks * CeilDiv(w.cols, kPanelCols), [&](int64_t item, int thread) {
    const int openmp_threads = omp_get_max_threads();
    omp_set_num_threads(1);
    const int64_t first_col = item / row_blocks * kPanelCols, cols = std::min(kPanelCols, w.cols - first_col);
    const int64_t first_row = item % row_blocks * kBlockRows, rows = std::min(kBlockRows, dx.rows - first_row);
    const float* dy = dout.as<float>() + first_row * dout.stride;
    float* out = dx.as<float>() + first_row * dx.stride + first_col;
    for (int64_t first = 0; first < w.rows; first += kPanelRows) {
      const int64_t count = std::min(kPanelRows, w.rows - first);
      const WeightPanel panel = PanelOf(w, {first, count, first_col, cols}, panels + thread * panel_bytes);
      const dnnl_status_t status = dnnl_sgemm('N', 'N', rows, cols, count, 1.0f, dy + first, dout.stride, panel.data,
                                              panel.stride, first == 0 ? 0.0f : 1.0f, out, dx.stride);
      DUO_CHECK_EQ(static_cast<int>(status), static_cast<int>(dnnl_success));
    }
    omp_set_num_threads(openmp_threads);
  });
  scratch.Rewind(mark);
}

}  // namespace duo::cpu
