// Gradients of the row-wise ops, the mix of heads and the distillation loss.
#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/math.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/simd.h"

namespace duo::cpu {
namespace {

// y = x w / rms(x): with f = 1 / rms(x), dx = f w dy - x f^3 / dim * sum(w dy x). add(i, dx i).
template <typename Gradient, typename Add>
void NormGradient(const float* x, const float* weight, int64_t dim, float eps, const Gradient& dy, const Add& add) {
  const double inverse = 1.0 / std::sqrt(SumOf<8>(dim, [&](int64_t i) { return double{x[i]} * x[i]; }) / dim + eps);
  const double along = SumOf<8>(dim, [&](int64_t i) { return double{weight[i]} * dy(i) * x[i]; });
  const float f = static_cast<float>(inverse), g = static_cast<float>(inverse * inverse * inverse * along / dim);
  for (int64_t i = 0; i < dim; ++i) add(i, f * weight[i] * dy(i) - g * x[i]);
}

}  // namespace

void RoundToActivations(Device& device, View out, View in) {
  ForRows(device, in.rows,
          [&](int64_t r) { std::copy_n(in.as<float>() + r * in.stride, in.cols, out.as<float>() + r * out.stride); });
}

void RmsNormBackward(Device& device, View dresidual, View dout, View residual, const float* weight, float eps) {
  ForRows(device, residual.rows, [&](int64_t r) {
    const float* dy = dout.as<float>() + r * dout.stride;
    float* dx = dresidual.as<float>() + r * dresidual.stride;
    NormGradient(
        residual.as<float>() + r * residual.stride, weight, residual.cols, eps, [=](int64_t i) { return dy[i]; },
        [=](int64_t i, float g) { dx[i] += g; });
  });
}

void SwiGluBackward(Device& device, View dgate_up, View dout, View gate_up) {
  const int64_t n = dout.cols;
  ForRows(device, dout.rows, [&](int64_t r) {
    const float* gate = gate_up.as<float>() + r * gate_up.stride;
    float* dgate = dgate_up.as<float>() + r * dgate_up.stride;
    Simd().swiglu_gradient(gate, gate + n, dout.as<float>() + r * dout.stride, n, dgate, dgate + n);
  });
}

void DotRows(Device& device, float* out, View a, View b) {
  ForRows(device, a.rows, [&](int64_t r) {
    const float *x = a.as<float>() + r * a.stride, *y = b.as<float>() + r * b.stride;
    out[r] = static_cast<float>(SumOf<16>(a.cols, [&](int64_t c) { return double{x[c]} * y[c]; }));
  });
}

void AddWeightedRows(Device& device, View to, View from, const WeightedRows& which) {
  ForRows(device, from.rows, [&](int64_t r) {
    float* out = to.as<float>() + (which.rows != nullptr ? which.rows[r] : r) * to.stride;
    const float* in = from.as<float>() + r * from.stride;
    const float weight = which.weights != nullptr ? which.weights[r] : 1.0f;
    for (int64_t c = 0; c < from.cols; ++c) out[c] += weight * in[c];
  });
}

void RotateQkBackward(Device& device, View dqkv, View before, const HeadShape& shape, View cos_sin,
                      const QkNorms& norms) {
  const int d = shape.head_dim, half = d / 2, q_heads = shape.kv_heads * shape.group;
  ForRows(device, dqkv.rows, [&](int64_t r) {
    const float* cos = cos_sin.as<float>() + r * cos_sin.stride;
    const float* sin = cos + half;
    for (int h = 0; h < q_heads + shape.kv_heads; ++h) {  // k heads follow the q heads
      float* dx = dqkv.as<float>() + r * dqkv.stride + int64_t{h} * d;
      for (int i = 0; i < half; ++i) {  // the transpose of the rotation
        const float a = dx[i], b = dx[half + i];
        dx[i] = a * cos[i] + b * sin[i];
        dx[half + i] = b * cos[i] - a * sin[i];
      }
      if (const float* norm = h < q_heads ? norms.q : norms.k; norm != nullptr) {
        NormGradient(
            before.as<float>() + r * before.stride + int64_t{h} * d, norm, d, norms.eps,
            [=](int64_t i) { return dx[i]; }, [=](int64_t i, float g) { dx[i] = g; });
      }
    }
  });
}

void MixHeads(Device& device, View out, const HeadMix& mix) {
  const View &streaming = mix.streaming, &full = mix.full;
  const HeadShape& shape = mix.shape;
  const int64_t width = int64_t{shape.group} * shape.head_dim;
  ForRows(device, out.rows, [&](int64_t r) {
    for (int h = 0; h < shape.kv_heads; ++h) {
      const float* s = streaming.as<float>() + r * streaming.stride + h * width;
      const float* f = full.as<float>() + r * full.stride + h * width;
      float* o = out.as<float>() + r * out.stride + h * width;
      const float a = mix.gates[h];
      for (int64_t i = 0; i < width; ++i) o[i] = (1 - a) * s[i] + a * f[i];
    }
  });
}

void MixHeadsBackward(Device& device, View dstreaming, float* dgates, View dout, const HeadMix& mix) {
  const View &streaming = mix.streaming, &full = mix.full;
  const HeadShape& shape = mix.shape;
  const int64_t width = int64_t{shape.group} * shape.head_dim, items = CeilDiv(dout.rows, kRowsPerItem);
  std::vector<double> sums(items * shape.kv_heads);
  ForRows(device, dout.rows, [&](int64_t r) {
    for (int h = 0; h < shape.kv_heads; ++h) {
      const float* s = streaming.as<float>() + r * streaming.stride + h * width;
      const float* f = full.as<float>() + r * full.stride + h * width;
      const float* d = dout.as<float>() + r * dout.stride + h * width;
      float* ds = dstreaming.as<float>() + r * dstreaming.stride + h * width;
      sums[r / kRowsPerItem * shape.kv_heads + h] +=
          SumOf<8>(width, [&](int64_t i) { return double{d[i]} * (double{f[i]} - s[i]); });
      for (int64_t i = 0; i < width; ++i) ds[i] = (1 - mix.gates[h]) * d[i];
    }
  });
  for (int h = 0; h < shape.kv_heads; ++h) {
    double sum = 0;
    for (int64_t item = 0; item < items; ++item) sum += sums[item * shape.kv_heads + h];
    dgates[h] += static_cast<float>(sum);
  }
}

void DistillLoss(Device& device, float* losses, View dresidual, const Distillation& of) {
  const View &student = of.student, &teacher = of.teacher;
  const float *weight = of.weight, *row_weights = of.row_weights;
  const float eps = of.eps;
  const int64_t dim = student.cols;
  ForRows(device, student.rows, [&](int64_t r) {
    const float* s = student.as<float>() + r * student.stride;
    const float* t = teacher.as<float>() + r * teacher.stride;
    float* dx = dresidual.as<float>() + r * dresidual.stride;
    const auto inverse_rms = [=](const float* x) {
      const double squares = SumOf<8>(dim, [=](int64_t i) { return double{x[i]} * x[i]; });
      return static_cast<float>(1.0 / std::sqrt(squares / dim + eps));
    };
    const float fs = inverse_rms(s), ft = inverse_rms(t);
    const auto difference = [=](int64_t i) { return (s[i] * fs - t[i] * ft) * weight[i]; };
    losses[r] = static_cast<float>(row_weights[r] / dim *
                                   SumOf<8>(dim, [&](int64_t i) { return double{difference(i)} * difference(i); }));
    const float scale = 2 * row_weights[r] / dim;
    NormGradient(
        s, weight, dim, eps, [&](int64_t i) { return scale * difference(i); }, [=](int64_t i, float g) { dx[i] = g; });
  });
}

}  // namespace duo::cpu
