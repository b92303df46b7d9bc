// Row-wise dense ops: norms, gated activation, gathers and embeddings.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/backend.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/weight_decode.h"

namespace duo::cpu {
namespace {

// Rows that one work item takes, so that an item is worth handing out.
int64_t RowsPerItem(int64_t cols) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(cols, 1)); }

}  // namespace

void Embed(Device& device, View residual, const int32_t* ids, const Weight& table, int32_t first_id) {
  ForRows(device, residual.rows, RowsPerItem(residual.cols), [&](int64_t r) {
    float* out = residual.as<float>() + r * residual.stride;
    const int64_t row = int64_t{ids[r]} - first_id;
    if (row >= 0 && row < table.rows) {
      DecodeWeightRow(table, row, 0, table.cols, out);
    } else {
      std::fill_n(out, residual.cols, 0.0f);
    }
  });
}

void FillRows(Device& device, View out, const float* row) {
  ForRows(device, out.rows, RowsPerItem(out.cols),
          [&](int64_t r) { std::copy_n(row, out.cols, out.as<float>() + r * out.stride); });
}

void AddRmsNorm(Device& device, View out, View residual, View add, const float* weight, float eps) {
  const int64_t cols = residual.cols;
  ForRows(device, residual.rows, RowsPerItem(cols), [&](int64_t r) {
    float* x = residual.as<float>() + r * residual.stride;
    if (!add.empty()) {
      const float* a = add.as<float>() + r * add.stride;
      for (int64_t c = 0; c < cols; ++c) x[c] += a[c];
    }
    if (out.empty()) return;
    const double sum = SumOf<16>(cols, [x](int64_t c) { return double{x[c]} * x[c]; });
    const float inverse = static_cast<float>(1.0 / std::sqrt(sum / cols + eps));
    float* o = out.as<float>() + r * out.stride;
    for (int64_t c = 0; c < cols; ++c) o[c] = x[c] * inverse * weight[c];
  });
}

void SwiGlu(Device& device, View out, View gate_up) {
  const int64_t n = out.cols;
  ForRows(device, out.rows, RowsPerItem(n), [&](int64_t r) {
    const float* gate = gate_up.as<float>() + r * gate_up.stride;
    Simd().swiglu(gate, gate + n, n, out.as<float>() + r * out.stride);
  });
}

void GatherRows(Device& device, View out, View in, const int32_t* rows, int count) {
  const size_t bytes = Bytes(in.dtype, in.cols), in_stride = Bytes(in.dtype, in.stride),
               out_stride = Bytes(out.dtype, out.stride);
  ForRows(device, count, RowsPerItem(in.cols), [&](int64_t r) {
    DUO_CHECK(rows[r] >= 0 && rows[r] < in.rows);
    std::memcpy(out.as<char>() + r * out_stride, in.as<char>() + rows[r] * in_stride, bytes);
  });
}

void MergePartial(Device& device, const Partial& to, const Partial& part, int heads) {
  const int64_t rows = to.out.rows, d = to.out.cols / heads;
  ForRows(device, rows, RowsPerItem(to.out.cols), [&](int64_t row) {
    for (int h = 0; h < heads; ++h) {
      float* lse = to.lse + h * rows + row;
      const MergedWeights w = MergeWeights(*lse, part.lse[h * rows + row]);
      float* o = to.out.as<float>() + row * to.out.stride + h * d;
      const float* other = part.out.as<float>() + row * part.out.stride + h * d;
      for (int64_t c = 0; c < d; ++c) o[c] = w.a * o[c] + w.b * other[c];
      *lse = w.lse;
    }
  });
}

void ScaleSplitHeads(Device& device, View out, int head_dim, int heads, const GatheredLse& all) {
  const int64_t rows = out.rows;
  const int gathered = all.ranks * all.entries, first = all.rank * all.entries;
  ForRows(device, rows, RowsPerItem(int64_t{heads} * head_dim), [&](int64_t row) {
    for (int h = 0; h < heads; ++h) {
      const int32_t id = all.ids[first + h];
      const float sink = all.sinks != nullptr ? all.sinks[h] : -INFINITY;
      float top = sink;
      for (int e = 0; e < gathered; ++e) {
        if (all.ids[e] == id) top = std::max(top, all.lse[e * rows + row]);
      }
      float scale = 0.0f;
      if (top > -INFINITY) {
        float sum = std::exp(sink - top);
        for (int e = 0; e < gathered; ++e) {
          if (all.ids[e] == id) sum += std::exp(all.lse[e * rows + row] - top);
        }
        scale = std::exp(all.lse[(first + h) * rows + row] - top) / sum;
      }
      float* o = out.as<float>() + row * out.stride + int64_t{h} * head_dim;
      for (int c = 0; c < head_dim; ++c) o[c] *= scale;
    }
  });
}

}  // namespace duo::cpu
