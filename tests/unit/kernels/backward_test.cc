// Gradients of linear layers, row-wise ops, the mix of heads and the loss: against finite differences in f64, and no
// worse than twice a plain path at the device's precision.
#include "kernels/backward.h"

#include "devices.h"
#include "finite_difference.h"
#include "test_weight.h"

namespace duo {
namespace {

class Backward : public DeviceTest {
 protected:
  // Normal numbers as the activation type holds them.
  std::vector<float> Activations(std::mt19937& rng, size_t count, float scale = 1.0f) {
    std::vector<float> x = Normal(rng, count, scale);
    for (float& v : x) v = RoundTo(activation(), v);
    return x;
  }
  View Of(const Buffer& buffer, int64_t rows, int64_t cols, int64_t stride = 0) {
    return View(buffer.data(), activation(), rows, cols, stride == 0 ? cols : stride);
  }
};
INSTANTIATE_ON_DEVICES(Backward);

TEST_P(Backward, LinearMatchesForEveryFormat) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3, DType::kI8, DType::kI4}) {
    for (auto [rows, outs, cols] : {std::tuple(1, 72, 64), std::tuple(37, 136, 192), std::tuple(130, 1032, 576)}) {
      SCOPED_TRACE(testing::Message() << Name(dtype) << " " << rows << " " << outs << " " << cols);
      std::mt19937 rng(rows);
      const TestWeight w = MakeWeight(device(), dtype, outs, cols, 64, true, rng);
      const int64_t in_stride = outs + 8, out_stride = cols + 8;
      const std::vector<float> dy = Activations(rng, rows * in_stride);
      Buffer device_dy = UploadAs(device(), activation(), dy),
             dx = Allocate(device(), Bytes(activation(), rows * out_stride));
      Arena scratch = Scratch(device(), LinearBackwardScratchBytes(device(), rows, w.weight));
      LinearBackward(device(), Of(dx, rows, cols, out_stride), Of(device_dy, rows, outs, in_stride), w.weight, scratch);
      const std::vector<float> padded = DownloadAs(device(), activation(), dx.data(), rows * out_stride);
      std::vector<float> got, plain;
      std::vector<double> truth;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < out_stride; ++c) {
          if (c >= cols) {
            ASSERT_TRUE(std::isnan(padded[r * out_stride + c])) << "beyond the matrix";
            continue;
          }
          double exact = 0;
          float sum = 0;
          for (int64_t o = 0; o < outs; ++o) {
            const double value = w.values[o * cols + c];
            exact += value * dy[r * in_stride + o];
            sum += Rounded(activation(), static_cast<float>(value)) * dy[r * in_stride + o];
          }
          truth.push_back(exact);
          plain.push_back(Rounded(activation(), sum));
          got.push_back(padded[r * out_stride + c]);
        }
      }
      ExpectAsGoodAs(got, plain, truth, activation(), "dx");
      if (rows == 1 && dtype == DType::kF32) {
        const auto loss = [&, outs = outs, cols = cols](const std::vector<double>& x) {
          double sum = 0;
          for (int64_t o = 0; o < outs; ++o) {
            double y = w.bias[o];
            for (int64_t c = 0; c < cols; ++c) y += w.values[o * cols + c] * x[c];
            sum += y * dy[o];
          }
          return sum;
        };
        ExpectGradient(loss, Cast<double>(Normal(rng, cols)), truth, "dx");
      }
    }
  }
}

TEST_P(Backward, ResidualGradientsAreRoundedToActivations) {
  std::mt19937 rng(1);
  const std::vector<float> x = Normal(rng, 5 * 136, 1e-7f);
  Buffer in = Upload(device(), x), out = Allocate(device(), Bytes(activation(), 5 * 140));
  RoundToActivations(device(), Of(out, 5, 133, 140), View(in.data(), DType::kF32, 5, 133, 136));
  const std::vector<float> got = DownloadAs(device(), activation(), out.data(), 5 * 140);
  for (int r = 0; r < 5; ++r) {
    for (int c = 0; c < 133; ++c) ASSERT_EQ(got[r * 140 + c], RoundTo(activation(), x[r * 136 + c]));
    for (int c = 133; c < 140; ++c) ASSERT_TRUE(std::isnan(got[r * 140 + c]));
  }
}

TEST_P(Backward, RowsAreMultipliedAndAddedWhereTheyCameFrom) {
  std::mt19937 rng(4);
  constexpr int kRows = 6, kCols = 77, kStride = 80, kTarget = 9;
  const std::vector<float> a = Activations(rng, kRows * kStride), b = Activations(rng, kRows * kStride);
  const std::vector<float> base = Normal(rng, kTarget * kCols), weights = Normal(rng, kRows);
  const std::vector<int32_t> rows = {8, 0, 3, 7, 1, 4};
  Buffer device_a = UploadAs(device(), activation(), a), device_b = UploadAs(device(), activation(), b);
  Buffer dots = Allocate(device(), 4 * kRows), ids = Upload(device(), rows), device_weights = Upload(device(), weights);
  DotRows(device(), dots.as<float>(), Of(device_a, kRows, kCols, kStride), Of(device_b, kRows, kCols, kStride));
  const std::vector<float> got_dots = Download<float>(device(), dots.data(), kRows);
  for (const bool placed : {true, false}) {
    Buffer to = Upload(device(), base);
    const int count = placed ? kTarget : kRows;
    AddWeightedRows(device(), View(to.data(), DType::kF32, count, kCols), Of(device_a, kRows, kCols, kStride),
                    placed ? WeightedRows{ids.as<int32_t>(), device_weights.as<float>()} : WeightedRows{});
    std::vector<double> expected(base.begin(), base.end());
    for (int r = 0; r < kRows; ++r) {
      double dot = 0;
      for (int c = 0; c < kCols; ++c) {
        dot += double{a[r * kStride + c]} * b[r * kStride + c];
        expected[(placed ? rows[r] : r) * kCols + c] += (placed ? double{weights[r]} : 1.0) * a[r * kStride + c];
      }
      EXPECT_NEAR(got_dots[r], dot, 1e-4);
    }
    const std::vector<float> got = Download<float>(device(), to.data(), base.size());
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 1e-5) << i;
  }
}

// y = x w / rms(x) and its gradient.
template <typename F>
std::vector<F> Norm(const F* x, const std::vector<float>& w, double eps) {
  F squares = 0;
  for (size_t i = 0; i < w.size(); ++i) squares += x[i] * x[i];
  const F f = 1 / std::sqrt(squares / w.size() + static_cast<F>(eps));
  std::vector<F> y(w.size());
  for (size_t i = 0; i < w.size(); ++i) y[i] = x[i] * f * w[i];
  return y;
}
template <typename F>
std::vector<F> NormGradient(const F* x, const std::vector<float>& w, double eps, const F* dy) {
  F squares = 0, along = 0;
  for (size_t i = 0; i < w.size(); ++i) squares += x[i] * x[i], along += w[i] * dy[i] * x[i];
  const F f = 1 / std::sqrt(squares / w.size() + static_cast<F>(eps));
  std::vector<F> dx(w.size());
  for (size_t i = 0; i < w.size(); ++i) dx[i] = f * w[i] * dy[i] - x[i] * f * f * f * along / w.size();
  return dx;
}

TEST_P(Backward, RmsNormAddsItsGradient) {
  for (int dim : {8, 133, 1000, 4096}) {
    const int rows = 19, stride = dim + 4;
    std::mt19937 rng(dim);
    const std::vector<float> x = Normal(rng, rows * stride), w = Normal(rng, dim), before = Normal(rng, rows * stride),
                             dy = Activations(rng, rows * dim);
    Buffer dx = Upload(device(), before), dresidual = Upload(device(), x), dw = Upload(device(), w),
           ddy = UploadAs(device(), activation(), dy);
    RmsNormBackward(device(), View(dx.data(), DType::kF32, rows, dim, stride), Of(ddy, rows, dim),
                    View(dresidual.data(), DType::kF32, rows, dim, stride), dw.as<float>(), 1e-5f);
    const std::vector<float> all = Download<float>(device(), dx.data(), rows * stride);
    std::vector<float> got, plain;
    std::vector<double> truth;
    for (int r = 0; r < rows; ++r) {
      const std::vector<double> x64(x.begin() + r * stride, x.begin() + r * stride + dim),
          dy64(dy.begin() + r * dim, dy.begin() + (r + 1) * dim);
      const std::vector<double> exact = NormGradient(x64.data(), w, 1e-5, dy64.data());
      const std::vector<float> simple = NormGradient(&x[r * stride], w, 1e-5, &dy[r * dim]);
      if (r == 0) {
        ExpectGradient([&](const std::vector<double>& v) { return Dot(Norm(v.data(), w, 1e-5), dy64); }, x64, exact,
                       "norm");
      }
      for (int c = 0; c < dim; ++c) {
        truth.push_back(before[r * stride + c] + exact[c]);
        plain.push_back(before[r * stride + c] + simple[c]);
        got.push_back(all[r * stride + c]);
      }
      for (int c = dim; c < stride; ++c) ASSERT_EQ(all[r * stride + c], before[r * stride + c]);
    }
    ExpectAsGoodAs(got, plain, truth, DType::kF32, "dresidual");
  }
}

TEST_P(Backward, SwiGluMatchesInPlaceAndSurvivesLargeGates) {
  for (int n : {8, 136, 1000, 1001}) {
    for (bool in_place : {false, true}) {
      const int rows = 9;
      std::mt19937 rng(n);
      std::vector<float> x = Activations(rng, rows * 2 * n, 2.0f);
      const std::vector<float> dy = Activations(rng, rows * n);
      const float large[] = {-1e4f, -100.0f, -88.5f, 88.5f, 100.0f, 1e4f, 0.0f, -0.0f};
      for (int i = 0; i < 8; ++i) x[i] = RoundTo(activation(), large[i]);
      Buffer gate_up = UploadAs(device(), activation(), x), d_out = UploadAs(device(), activation(), dy),
             other = Allocate(device(), Bytes(activation(), rows * 2 * n));
      const Buffer& target = in_place ? gate_up : other;
      SwiGluBackward(device(), Of(target, rows, 2 * n), Of(d_out, rows, n), Of(gate_up, rows, 2 * n));
      const std::vector<float> got = DownloadAs(device(), activation(), target.data(), rows * 2 * n);
      const auto gradient = [](double g, double u, double d) {
        const double s = 1 / (1 + std::exp(-g));
        return std::pair(d * u * s * (1 + g * (1 - s)), d * g * s);
      };
      for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < n; ++c) {
          const double g = x[r * 2 * n + c], u = x[r * 2 * n + n + c], d = dy[r * n + c];
          const auto [dg, du] = gradient(g, u, d);
          if (r == 1) {
            ExpectGradient([=](const std::vector<double>& v) { return v[0] / (1 + std::exp(-v[0])) * v[1] * d; },
                           {g, u}, {dg, du}, "swiglu");
          }
          // A few roundings of the result, and of the terms that cancel near silu's minimum.
          const double unit = UnitRoundoff(activation()), f32 = UnitRoundoff(DType::kF32);
          ASSERT_NEAR(got[r * 2 * n + c], dg, 2 * unit * std::abs(dg) + 16 * f32 * std::abs(d * u)) << "gate " << g;
          ASSERT_NEAR(got[r * 2 * n + n + c], du, (2 * unit + 8 * f32) * std::abs(du) + 1e-30) << "gate " << g;
        }
      }
    }
  }
}

TEST_P(Backward, RotationsOfQueriesAndKeysMatchWithAndWithoutNorms) {
  for (bool normed : {false, true}) {
    for (int d : {64, 80, 128}) {
      const HeadShape shape{d, 3, 2};
      const int rows = 21, cols = shape.qkv_cols(), half = d / 2;
      std::mt19937 rng(d);
      const std::vector<float> x = Activations(rng, rows * cols), dy = Activations(rng, rows * cols),
                               cs = Normal(rng, rows * d), qn = Normal(rng, d), kn = Normal(rng, d);
      Buffer before = UploadAs(device(), activation(), x), grad = UploadAs(device(), activation(), dy),
             dcs = Upload(device(), cs), dq = Upload(device(), qn), dk = Upload(device(), kn);
      RotateQkBackward(device(), Of(grad, rows, cols), normed ? Of(before, rows, cols) : View(), shape,
                       View(dcs.data(), DType::kF32, rows, d),
                       {normed ? dq.as<float>() : nullptr, normed ? dk.as<float>() : nullptr, 1e-6f});
      std::vector<double> truth(dy.begin(), dy.end());
      std::vector<float> plain = dy;
      const auto back = [&](auto* g, const auto* value, int r, const std::vector<float>& w) {
        using F = std::remove_reference_t<decltype(*g)>;
        for (int i = 0; i < half; ++i) {
          const F c = cs[r * d + i], s = cs[r * d + half + i], a = g[i], b = g[half + i];
          g[i] = a * c + b * s;
          g[half + i] = b * c - a * s;
        }
        if (!normed) return;
        const std::vector<F> dx = NormGradient<F>(value, w, 1e-6, g);
        std::copy(dx.begin(), dx.end(), g);
      };
      for (int r = 0; r < rows; ++r) {
        for (int h = 0; h < 8; ++h) {
          const size_t at = size_t(r) * cols + h * d;
          const std::vector<float>& w = h < 6 ? qn : kn;
          const std::vector<double> x64(x.begin() + at, x.begin() + at + d);
          back(&truth[at], x64.data(), r, w);
          back(&plain[at], &x[at], r, w);
          for (int i = 0; i < d; ++i) plain[at + i] = Rounded(activation(), plain[at + i]);
          if (r > 0) continue;
          const auto loss = [&](const std::vector<double>& v) {
            const std::vector<double> n = normed ? Norm(v.data(), w, 1e-6) : v;
            double sum = 0;
            for (int i = 0; i < half; ++i) {
              const double c = cs[i], s = cs[half + i];
              sum += (n[i] * c - n[half + i] * s) * dy[at + i] + (n[half + i] * c + n[i] * s) * dy[at + half + i];
            }
            return sum;
          };
          ExpectGradient(loss, x64, std::vector<double>(&truth[at], &truth[at] + d), "rotation");
        }
      }
      const std::vector<float> got = DownloadAs(device(), activation(), grad.data(), dy.size());
      ExpectAsGoodAs(got, plain, truth, activation(), "rotated");
      for (int r = 0; r < rows; ++r) {
        for (int c = 8 * d; c < cols; ++c) ASSERT_EQ(got[size_t(r) * cols + c], dy[size_t(r) * cols + c]) << "v";
      }
    }
  }
}

TEST_P(Backward, MixedHeadsAndTheirGates) {
  for (auto [rows, group, d] : {std::tuple(1, 1, 64), std::tuple(57, 3, 64), std::tuple(1030, 4, 128)}) {
    SCOPED_TRACE(testing::Message() << rows << " rows, group " << group);
    const HeadShape shape{d, group, 2};
    const int cols = shape.q_cols(), stride = cols + 8, width = group * d;
    std::mt19937 rng(rows);
    const std::vector<float> gates = {0.3f, 1.0f}, before = {5.0f, -7.0f};
    const std::vector<float> s = Activations(rng, rows * stride), f = Activations(rng, rows * stride),
                             dy = Activations(rng, rows * stride);
    Buffer ds = UploadAs(device(), activation(), s), df = UploadAs(device(), activation(), f),
           ddy = UploadAs(device(), activation(), dy), dg = Upload(device(), gates),
           mixed = Allocate(device(), Bytes(activation(), rows * stride)),
           grad = Allocate(device(), Bytes(activation(), rows * stride)), dgates = Upload(device(), before);
    const auto of = [&, rows = rows](const Buffer& b) { return Of(b, rows, cols, stride); };
    MixHeads(device(), of(mixed), {of(ds), of(df), dg.as<float>(), shape});
    MixHeadsBackward(device(), of(grad), dgates.as<float>(), of(ddy), {of(ds), of(df), dg.as<float>(), shape});
    const std::vector<float> out = DownloadAs(device(), activation(), mixed.data(), rows * stride),
                             dstreaming = DownloadAs(device(), activation(), grad.data(), rows * stride),
                             gate_sums = Download<float>(device(), dgates.data(), 2);
    std::vector<double> exact(2), magnitude(2);
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < stride; ++c) {
        const size_t at = size_t(r) * stride + c;
        if (c >= cols) {
          ASSERT_TRUE(std::isnan(out[at]) && std::isnan(dstreaming[at]));
          continue;
        }
        const int h = c / width;
        const double a = gates[h], value = (1 - a) * s[at] + a * f[at], unit = UnitRoundoff(activation());
        ASSERT_NEAR(out[at], value, 2 * unit * (std::abs((1 - a) * s[at]) + std::abs(a * f[at])));
        ASSERT_NEAR(dstreaming[at], (1 - a) * dy[at], 2 * unit * std::abs((1 - a) * dy[at]));
        exact[h] += dy[at] * (double{f[at]} - s[at]);
        magnitude[h] += std::abs(dy[at] * (double{f[at]} - s[at]));
      }
    }
    for (int h = 0; h < 2; ++h) {
      // Sums in blocks of a few hundred: their roundings are far below one per term.
      const double allowed = 16 * UnitRoundoff(DType::kF32) * (magnitude[h] + std::abs(before[h]));
      EXPECT_NEAR(gate_sums[h], before[h] + exact[h], allowed) << "gate " << h;
    }
    const auto loss = [&, rows = rows](const std::vector<double>& a) {
      double sum = 0;
      for (int r = 0; r < rows; ++r) {
        for (int c = 0; c < cols; ++c) {
          const size_t at = size_t(r) * stride + c;
          sum += ((1 - a[c / width]) * s[at] + a[c / width] * f[at]) * dy[at];
        }
      }
      return sum / rows;
    };
    ExpectGradient(loss, Cast<double>(gates), {exact[0] / rows, exact[1] / rows}, "gates");

    // In place, and the same sums in every run.
    device().Upload(dgates.data(), before.data(), sizeof(float) * 2);
    MixHeadsBackward(device(), of(ddy), dgates.as<float>(), of(ddy), {of(ds), of(df), dg.as<float>(), shape});
    MixHeads(device(), of(ds), {of(ds), of(df), dg.as<float>(), shape});
    EXPECT_EQ(Download<float>(device(), dgates.data(), 2), gate_sums);
    const std::vector<float> in_place = DownloadAs(device(), activation(), ddy.data(), rows * stride),
                             mixed_in_place = DownloadAs(device(), activation(), ds.data(), rows * stride);
    for (int r = 0; r < rows; ++r) {
      for (int c = 0; c < cols; ++c) {
        ASSERT_EQ(in_place[size_t(r) * stride + c], dstreaming[size_t(r) * stride + c]);
        ASSERT_EQ(mixed_in_place[size_t(r) * stride + c], out[size_t(r) * stride + c]);
      }
    }
  }
}

TEST_P(Backward, DistillationLossAndItsGradient) {
  for (int dim : {8, 133, 4096}) {
    const int rows = 11, stride = dim + 4;
    std::mt19937 rng(dim);
    const std::vector<float> s = Normal(rng, rows * stride), w = Normal(rng, dim);
    std::vector<float> t = s, row_weights = Normal(rng, rows);
    for (float& x : t) x += Normal(rng, 1, 0.1f)[0];
    row_weights[3] = 0;
    Buffer ds = Upload(device(), s), dt = Upload(device(), t), dw = Upload(device(), w),
           drow = Upload(device(), row_weights), losses = Allocate(device(), rows * 4),
           grad = Allocate(device(), rows * stride * 4);
    const auto of = [&](const Buffer& b) { return View(b.data(), DType::kF32, rows, dim, stride); };
    DistillLoss(device(), losses.as<float>(), of(grad), {of(ds), of(dt), dw.as<float>(), drow.as<float>(), 1e-5f});
    const std::vector<float> got_losses = Download<float>(device(), losses.data(), rows),
                             all = Download<float>(device(), grad.data(), rows * stride);
    std::vector<float> got, plain, plain_losses;
    std::vector<double> truth, true_losses;
    const auto run = [&](auto zero, int r, auto& loss_out, auto& grad_out) {
      using F = decltype(zero);
      const std::vector<F> x(s.begin() + r * stride, s.begin() + r * stride + dim),
          y(t.begin() + r * stride, t.begin() + r * stride + dim);
      const std::vector<F> a = Norm(x.data(), w, 1e-5), b = Norm(y.data(), w, 1e-5);
      F sum = 0;
      std::vector<F> da(dim);
      for (int i = 0; i < dim; ++i)
        sum += (a[i] - b[i]) * (a[i] - b[i]), da[i] = 2 * row_weights[r] * (a[i] - b[i]) / dim;
      const std::vector<F> dx = NormGradient(x.data(), w, 1e-5, da.data());
      loss_out.push_back(row_weights[r] * sum / dim);
      grad_out.insert(grad_out.end(), dx.begin(), dx.end());
    };
    for (int r = 0; r < rows; ++r) {
      run(0.0, r, true_losses, truth);
      run(0.0f, r, plain_losses, plain);
      got.insert(got.end(), &all[r * stride], &all[r * stride] + dim);
      for (int c = dim; c < stride; ++c) ASSERT_TRUE(std::isnan(all[r * stride + c]));
    }
    ExpectAsGoodAs(got_losses, plain_losses, true_losses, DType::kF32, "losses");
    ExpectAsGoodAs(got, plain, truth, DType::kF32, "gradient");
    EXPECT_EQ(got_losses[3], 0.0f);
    const std::vector<double> x(s.begin(), s.begin() + dim), y(t.begin(), t.begin() + dim);
    const auto loss = [&](const std::vector<double>& v) {
      const std::vector<double> a = Norm(v.data(), w, 1e-5), b = Norm(y.data(), w, 1e-5);
      double sum = 0;
      for (int i = 0; i < dim; ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
      return row_weights[0] * sum / dim;
    };
    ExpectGradient(loss, x, std::vector<double>(truth.begin(), truth.begin() + dim), "loss");
  }
}

}  // namespace
}  // namespace duo
