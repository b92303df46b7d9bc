// Linear layers: panels of output rows, dequantised to a thread's own scratch, times the activations by oneDNN's
// single-threaded sgemm.
#include <omp.h>

#include <algorithm>

#include "dnnl.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/weight_decode.h"

namespace duo::cpu {
namespace {

constexpr int64_t kPanelRows = 128;   // weight rows of one work item
constexpr int64_t kPanelCols = 2048;  // columns dequantised at a time: 1 MiB of f32, which stays in L2
constexpr int64_t kBlockRows = 1024;  // activation rows of one work item

size_t PanelBytes(const Weight& w) {
  if (w.dtype == DType::kF32) return 0;
  return Arena::Rounded(std::min(kPanelRows, w.rows) * std::min(kPanelCols, w.cols) * sizeof(float));
}

}  // namespace

size_t LinearScratchBytes(const Device& device, int64_t, const Weight& weight) {
  return PanelBytes(weight) * device.pool().threads();
}

void Linear(Device& device, View out, View x, const Weight& w, Arena& scratch) {
  const size_t mark = scratch.used();
  const size_t panel_bytes = PanelBytes(w);
  char* panels = panel_bytes > 0 ? static_cast<char*>(scratch.Take(panel_bytes * device.pool().threads())) : nullptr;
  const int64_t row_blocks = (x.rows + kBlockRows - 1) / kBlockRows, panels_n = (w.rows + kPanelRows - 1) / kPanelRows;
  device.pool().ParallelFor(row_blocks * panels_n, [&](int64_t item, int thread) {
    const int openmp_threads = omp_get_max_threads();
    omp_set_num_threads(1);
    const int64_t first_out = item / row_blocks * kPanelRows, outs = std::min(kPanelRows, w.rows - first_out);
    const int64_t first_row = item % row_blocks * kBlockRows, rows = std::min(kBlockRows, x.rows - first_row);
    float* y = out.as<float>() + first_row * out.stride + first_out;
    for (int64_t c = 0; c < w.cols; c += kPanelCols) {
      const int64_t cols = std::min(kPanelCols, w.cols - c);
      const float* panel = static_cast<const float*>(w.data) + first_out * w.cols + c;
      int64_t panel_stride = w.cols;
      if (w.dtype != DType::kF32) {
        float* decoded = reinterpret_cast<float*>(panels + thread * panel_bytes);
        for (int64_t r = 0; r < outs; ++r) DecodeWeightRow(w, first_out + r, c, cols, decoded + r * cols);
        panel = decoded;
        panel_stride = cols;
      }
      const dnnl_status_t status =
          dnnl_sgemm('N', 'T', rows, outs, cols, 1.0f, x.as<float>() + first_row * x.stride + c, x.stride, panel,
                     panel_stride, c == 0 ? 0.0f : 1.0f, y, out.stride);
      DUO_CHECK_EQ(static_cast<int>(status), static_cast<int>(dnnl_success));
    }
    if (w.bias != nullptr) {
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t o = 0; o < outs; ++o) y[r * out.stride + o] += w.bias[first_out + o];
      }
    }
    omp_set_num_threads(openmp_threads);
  });
  scratch.Rewind(mark);
}

}  // namespace duo::cpu
