// Linear layers. Many activation rows: panels of weight rows, dequantised to a thread's own scratch, times the
// activations by oneDNN's single-threaded sgemm. Few rows, as in decode: own kernels that read each code once from
// memory, and give a row the same bits whatever rows are with it.
#include <omp.h>

#include <algorithm>

#include "dnnl.h"
#include "kernels/backend.h"
#include "kernels/base/math.h"
#include "kernels/cpu/simd.h"
#include "kernels/cpu/weight_decode.h"
#include "kernels/row_cuts.h"
#include "kernels/scale_blocks.h"

namespace duo::cpu {
namespace {

constexpr int64_t kPanelRows = 128;   // weight rows of one work item
constexpr int64_t kPanelCols = 2048;  // columns dequantised at a time: 1 MiB of f32, which stays in L2
constexpr int64_t kBlockRows = 1024;  // activation rows of one work item
constexpr int64_t kGemvRows = 32;     // weight rows of one work item

size_t PanelBytes(const Weight& w) {
  if (w.dtype == DType::kF32) return 0;
  return Arena::Rounded(std::min(kPanelRows, w.rows) * std::min(kPanelCols, w.cols) * sizeof(float));
}

int64_t PaddedCols(const Weight& w) { return RoundUp(w.cols, kColumnBlock); }

// The kernels take 1, 2, 4 or 8 rows; the missing ones are zeros whose results are dropped. More rows go by eights, so
// that the second eight finds the work item's codes in the cache.
int GemvRows(int64_t rows) { return rows <= 2 ? static_cast<int>(rows) : rows <= 4 ? 4 : kMaxGemvRows; }
int64_t PreparedRows(int64_t rows) {
  const int64_t whole = rows / kMaxGemvRows * kMaxGemvRows;
  return rows == whole ? whole : whole + GemvRows(rows - whole);
}

// Weight rows by few rows of x.
void LinearFewRows(Device& device, View out, View x, const Weight& w, Arena& scratch) {
  const SimdKernels& simd = Simd();
  const Code code = CodeOf(w);
  const int64_t cols = PaddedCols(w), rows = PreparedRows(x.rows);
  float* prepared = static_cast<float*>(scratch.Take(rows * cols * sizeof(float)));
  for (int64_t r = 0; r < rows; ++r) {
    if (r < x.rows) {
      simd.gemv_prepare(code, x.as<float>() + r * x.stride, w.cols, prepared + r * cols);
    } else {
      std::fill_n(prepared + r * cols, cols, 0.0f);
    }
  }
  const int64_t row_bytes = Bytes(w.dtype, w.cols);
  const bool scale_blocks = HasScaleBlocks(w);
  const auto scales_from = [&](int64_t row) -> const float* {
    if (w.scales == nullptr) return nullptr;
    return scale_blocks ? ScalesOfRow(w, row) : w.scales + row;
  };
  device.pool().ParallelFor(CeilDiv(w.rows, kGemvRows), [&](int64_t item, int) {
    const int64_t first = item * kGemvRows, outs = std::min(kGemvRows, w.rows - first);
    float y[kExactRows * kGemvRows];
    for (int64_t r = 0; r < rows; r += kMaxGemvRows) {
      simd.gemv({.code = code,
                 .codes = static_cast<const uint8_t*>(w.data) + first * row_bytes,
                 .row_bytes = row_bytes,
                 .outs = outs,
                 .cols = w.cols,
                 .scales = scales_from(first),
                 .groups = w.groups != nullptr ? w.groups + first * (w.cols / w.pair_cols()) * 2 : nullptr,
                 .subs = w.subs != nullptr ? w.subs + first * (w.cols / w.group) * 2 : nullptr,
                 .exponents = w.exponents != nullptr ? w.exponents + first * (w.cols / w.group) : nullptr,
                 .group = w.group,
                 .block = w.pair_cols(),
                 .scale_rows = scale_blocks ? w.block : 1,
                 .past = scale_blocks ? static_cast<int>(first % w.block) : 0,
                 .rows = static_cast<int>(std::min<int64_t>(rows - r, kMaxGemvRows)),
                 .x = prepared + r * cols,
                 .x_stride = cols,
                 .y = y + r * kGemvRows,
                 .y_stride = kGemvRows});
    }
    for (int64_t r = 0; r < x.rows; ++r) {
      float* o = out.as<float>() + r * out.stride + first;
      for (int64_t i = 0; i < outs; ++i) o[i] = y[r * kGemvRows + i] + (w.bias != nullptr ? w.bias[first + i] : 0.0f);
    }
  });
}

void LinearManyRows(Device& device, View out, View x, const Weight& w, Arena& scratch) {
  const size_t panel_bytes = PanelBytes(w);
  char* panels = static_cast<char*>(scratch.Take(panel_bytes * device.pool().threads()));
  const int64_t row_blocks = CeilDiv(x.rows, kBlockRows), panels_n = CeilDiv(w.rows, kPanelRows);
  device.pool().ParallelFor(row_blocks * panels_n, [&](int64_t item, int thread) {
    const int openmp_threads = omp_get_max_threads();
    omp_set_num_threads(1);
    const int64_t first_out = item / row_blocks * kPanelRows, outs = std::min(kPanelRows, w.rows - first_out);
    const int64_t first_row = item % row_blocks * kBlockRows, rows = std::min(kBlockRows, x.rows - first_row);
    float* y = out.as<float>() + first_row * out.stride + first_out;
    for (int64_t c = 0; c < w.cols; c += kPanelCols) {
      const int64_t cols = std::min(kPanelCols, w.cols - c);
      const WeightPanel panel = PanelOf(w, {first_out, outs, c, cols}, panels + thread * panel_bytes);
      const dnnl_status_t status =
          dnnl_sgemm('N', 'T', rows, outs, cols, 1.0f, x.as<float>() + first_row * x.stride + c, x.stride, panel.data,
                     panel.stride, c == 0 ? 0.0f : 1.0f, y, out.stride);
      DUO_CHECK_EQ(static_cast<int>(status), static_cast<int>(dnnl_success));
    }
    if (w.bias != nullptr) {
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t o = 0; o < outs; ++o) y[r * out.stride + o] += w.bias[first_out + o];
      }
    }
    omp_set_num_threads(openmp_threads);
  });
}

}  // namespace

size_t LinearScratchBytes(const Device& device, int64_t, const Weight& weight) {
  // For any number of rows up to the one given, few or many.
  return std::max(Arena::Rounded(kExactRows * PaddedCols(weight) * sizeof(float)),
                  PanelBytes(weight) * device.pool().threads());
}

void Linear(Device& device, View out, View x, const Weight& w, Arena& scratch) {
  const size_t mark = scratch.used();
  if (x.rows <= kExactRows) {
    LinearFewRows(device, out, x, w, scratch);
  } else {
    LinearManyRows(device, out, x, w, scratch);
  }
  scratch.Rewind(mark);
}

void LinearSwiGlu(Device& device, View out, View gate_up, View x, const Weight& weight, Arena& scratch) {
  cpu::Linear(device, gate_up, x, weight, scratch);
  cpu::SwiGlu(device, out, gate_up);
}

}  // namespace duo::cpu
