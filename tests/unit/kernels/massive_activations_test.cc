// Massive activations: one channel of x, as of Llama's down_proj, is 1,000 to 10,000 times the median. CUDA's products
// of few rows with int8 and int4 weights meet x as 16-bit fixed point of the largest of a warp's share; what the small
// channels lose by that is held to twice the error of plain bf16 weights. The rule itself is followed here on the host,
// too, for machines without a GPU.
#include <cmath>
#include <numeric>

#include "kernels/ops.h"
#include "reference.h"
#include "test_weight.h"

namespace duo {
namespace {

constexpr int64_t kOuts = 256, kCols = 14336, kMassive = 5003;
constexpr int64_t kShare = kCols / 8;  // of a warp of eight

double RootMeanSquare(const std::vector<double>& errors) {
  return std::sqrt(std::inner_product(errors.begin(), errors.end(), errors.begin(), 0.0) / errors.size());
}

class MassiveActivations : public DeviceTest {
 protected:
  // Rounded to bf16: x of a median of 1 and one channel of `factor`.
  std::vector<float> MakeX(float factor) {
    std::vector<float> x = Normal(rng_, kCols, 1.4826f);
    for (float& v : x) v = Rounded(DType::kBF16, v);
    x[kMassive] = Rounded(DType::kBF16, factor);
    return x;
  }
  // No output sees the massive channel: nothing then hides what the others lose.
  static void Blind(Device& device, TestWeight* w) {
    std::vector<uint8_t> codes = Download<uint8_t>(device, w->data.data(), kOuts * kCols);
    for (int64_t o = 0; o < kOuts; ++o) codes[o * kCols + kMassive] = 0, w->values[o * kCols + kMassive] = 0;
    device.Upload(w->data.data(), codes.data(), codes.size());
  }
  struct Outputs {
    std::vector<double> exact, plain;
  };
  static Outputs Reference(const TestWeight& w, const std::vector<float>& x) {
    Outputs outputs;
    for (int64_t o = 0; o < kOuts; ++o) {
      const double* values = &w.values[o * kCols];
      double exact = 0;
      float plain = 0;
      for (int64_t c = 0; c < kCols; ++c) {
        exact += values[c] * x[c];
        plain += Rounded(DType::kBF16, static_cast<float>(values[c])) * x[c];
      }
      outputs.exact.push_back(exact);
      outputs.plain.push_back(Rounded(DType::kBF16, plain));
    }
    return outputs;
  }
  // kernels/cuda/linear/linear_products.cuh, IntegerProducts: each share's x in units of its largest / 32,639.
  static std::vector<double> FixedPoint(const TestWeight& w, const std::vector<float>& x) {
    std::vector<double> y(kOuts);
    for (int64_t first = 0; first < kCols; first += kShare) {
      float largest = 0;
      for (int64_t c = first; c < first + kShare; ++c) largest = std::max(largest, std::abs(x[c]));
      const double unit = largest / 32639;
      for (int64_t c = first; c < first + kShare; ++c) {
        const double rounded = std::nearbyint(x[c] / unit) * unit;
        for (int64_t o = 0; o < kOuts; ++o) y[o] += w.values[o * kCols + c] * rounded;
      }
    }
    for (double& v : y) v = Rounded(DType::kBF16, static_cast<float>(v));
    return y;
  }
  std::vector<double> OnDevice(const TestWeight& w, const std::vector<float>& x) {
    const DType type = activation();
    Buffer device_x = UploadAs(device(), type, x), out = Allocate(device(), Bytes(type, kOuts));
    Arena scratch = Scratch(device(), LinearScratchBytes(device(), 1, w.weight));
    Linear(device(), View(out.data(), type, 1, kOuts), View(device_x.data(), type, 1, kCols), w.weight, scratch);
    const std::vector<float> y = DownloadAs(device(), type, out.data(), kOuts);
    return {y.begin(), y.end()};
  }
  // Root mean square errors over the outputs, in those of plain bf16.
  static double ErrorOverPlain(const std::vector<double>& y, const Outputs& expected) {
    std::vector<double> own(kOuts), plain(kOuts);
    for (int64_t o = 0; o < kOuts; ++o) {
      own[o] = y[o] - expected.exact[o];
      plain[o] = expected.plain[o] - expected.exact[o];
    }
    return RootMeanSquare(own) / RootMeanSquare(plain);
  }
  // By the rule and on the device; the larger of both.
  double Measure(DType dtype, float factor, bool blind) {
    const TestWeight weight = [&] {
      TestWeight w = MakeWeight(device(), dtype, kOuts, kCols, 128, false, rng_);
      if (blind) Blind(device(), &w);
      return w;
    }();
    const std::vector<float> x = MakeX(factor);
    const Outputs expected = Reference(weight, x);
    const double rule = ErrorOverPlain(FixedPoint(weight, x), expected),
                 here = ErrorOverPlain(OnDevice(weight, x), expected);
    RecordProperty(std::string(Name(dtype)) + (blind ? "_blind_" : "_") + std::to_string(static_cast<int>(factor)),
                   std::to_string(rule) + " by the rule, " + std::to_string(here) + " here");
    return std::max(rule, here);
  }

  std::mt19937 rng_{11};
};
INSTANTIATE_ON_DEVICES(MassiveActivations);

TEST_P(MassiveActivations, CostNoMoreThanTwiceWhatBf16WeightsDo) {
  for (DType dtype : {DType::kI8, DType::kI4}) {
    for (float factor : {1.0f, 1000.0f, 10000.0f}) {
      EXPECT_LE(Measure(dtype, factor, false), 2) << Name(dtype) << ", one channel " << factor << " times the median";
    }
  }
}

TEST_P(MassiveActivations, OfAChannelThatNoOutputSeesCostNoMoreThanTwiceUpToAThousand) {
  for (float factor : {1.0f, 1000.0f}) {
    EXPECT_LE(Measure(DType::kI8, factor, true), 2) << "one channel " << factor << " times the median";
  }
}

}  // namespace
}  // namespace duo
