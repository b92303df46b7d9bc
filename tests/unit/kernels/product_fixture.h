// Products with random weights, checked by the rule of reference.h.
#pragma once

#include "kernels/ops.h"
#include "reference.h"
#include "test_weight.h"

namespace duo {

class ProductTest : public DeviceTest {
 protected:
  // One output of one row of x, bias included: exactly, and by the plain path, whose weights are activations.
  struct Output {
    double exact;
    float plain;
  };
  Output Product(const TestWeight& w, int64_t output, const float* x) {
    Output y = {w.bias[output], 0};
    const double* values = &w.values[output * w.weight.cols];
    for (int64_t c = 0; c < w.weight.cols; ++c) {
      y.exact += values[c] * x[c];
      y.plain += Rounded(activation(), static_cast<float>(values[c])) * x[c];
    }
    y.plain += w.bias[output];
    return y;
  }

  // x and out lie in wider matrices, whose other columns must stay as they were.
  void CheckLinear(const TestWeight& w, int64_t rows, DType out_type, std::mt19937& rng) {
    const int64_t outs = w.weight.rows, cols = w.weight.cols;
    const DType type = activation();
    const int64_t x_stride = cols + 8, out_stride = outs + 8;
    std::vector<float> x = Normal(rng, rows * x_stride);
    for (float& v : x) v = Rounded(type, v);
    for (int64_t r = 0; r < rows; ++r) std::fill_n(&x[r * x_stride + cols], 8, NAN);
    Buffer device_x = UploadAs(device(), type, x), out = Allocate(device(), Bytes(out_type, rows * out_stride));
    Arena scratch = Scratch(device(), LinearScratchBytes(device(), rows, w.weight));
    Linear(device(), View(out.data(), out_type, rows, outs, out_stride),
           View(device_x.data(), type, rows, cols, x_stride), w.weight, scratch);
    const std::vector<float> padded = DownloadAs(device(), out_type, out.data(), rows * out_stride);
    std::vector<float> got, plain;
    std::vector<double> truth;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t o = 0; o < outs; ++o) {
        const auto [exact, simple] = Product(w, o, &x[r * x_stride]);
        truth.push_back(exact);
        plain.push_back(Rounded(out_type, simple));
        got.push_back(padded[r * out_stride + o]);
      }
      for (int64_t o = outs; o < out_stride; ++o) ASSERT_TRUE(std::isnan(padded[r * out_stride + o]));
    }
    ExpectAsGoodAs(got, plain, truth, out_type, "Linear");
  }

  // The weight's rows are those of gate, then those of up.
  void CheckSwiGlu(const TestWeight& w, int64_t rows, std::mt19937& rng) {
    const DType type = activation();
    const int64_t n = w.weight.rows / 2, cols = w.weight.cols;
    std::vector<float> x = Normal(rng, rows * cols);
    for (float& v : x) v = Rounded(type, v);
    Buffer device_x = UploadAs(device(), type, x), out = Allocate(device(), Bytes(type, rows * n)),
           room = Allocate(device(), Bytes(type, rows * 2 * n));
    Arena scratch = Scratch(device(), LinearScratchBytes(device(), rows, w.weight));
    LinearSwiGlu(device(), View(out.data(), type, rows, n), View(room.data(), type, rows, 2 * n),
                 View(device_x.data(), type, rows, cols), w.weight, scratch);
    std::vector<float> plain;
    std::vector<double> truth;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t o = 0; o < n; ++o) {
        double exact[2];
        float simple[2];
        for (int half = 0; half < 2; ++half) {
          const Output y = Product(w, half * n + o, &x[r * cols]);
          exact[half] = y.exact;
          simple[half] = Rounded(type, y.plain);
        }
        truth.push_back(exact[0] / (1 + std::exp(-exact[0])) * exact[1]);
        plain.push_back(Rounded(type, simple[0] / (1 + std::exp(-simple[0])) * simple[1]));
      }
    }
    ExpectAsGoodAs(DownloadAs(device(), type, out.data(), rows * n), plain, truth, type, "SwiGLU of a product");
  }
};

}  // namespace duo
