#include "launcher/bench/gradient_bench.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "absl/strings/str_cat.h"
#include "kernels/base/seconds.h"
#include "kernels/random_fill.h"
#include "launcher/bench/kernel_bench_parts.h"

namespace duo {
namespace {

constexpr int kSamples = 24;

// A matrix whose elements the host can compute: uniform in [-1, 1), as the device's type holds them.
struct Filled {
  View view;
  uint64_t seed = 0;
  double at(int64_t row, int64_t col) const {
    const float x = RandomUnit(seed, row * view.cols + col);
    return view.dtype == DType::kBF16 ? ToFloat(ToBf16(x)) : x;
  }
};

class Bench {
 public:
  Bench(Device& device, const GradientBench& b, const BenchRates& rates) : device_(device), b_(b), rates_(rates) {}

  absl::StatusOr<std::vector<BenchRow>> Run(const std::function<void(int done, int total)>& told) {
    constexpr int kKinds = 5;
    int done = 0;
    for (const auto step : {&Bench::Attention, &Bench::Linears, &Bench::SwiGlu, &Bench::RmsNorm, &Bench::MixedHeads}) {
      if (told) told(done++, kKinds);
      (this->*step)();
      if (!memory_.status.ok()) return memory_.status;
      memory_.buffers.clear();
    }
    return rows_;
  }

 private:
  DType type() const { return ActivationType(device_); }

  void* Take(size_t bytes) { return memory_.Take(device_, bytes); }
  View Matrix(DType dtype, int64_t cols) { return View(Take(Bytes(dtype, b_.tokens * cols)), dtype, b_.tokens, cols); }
  Filled Random(DType dtype, int64_t rows, int64_t cols) {
    Filled x{View(Take(Bytes(dtype, rows * cols)), dtype, rows, cols), seed_ += uint64_t{1} << 40};
    if (!memory_.status.ok()) return x;
    Weight as_weight;
    as_weight.dtype = dtype;
    as_weight.rows = rows;
    as_weight.cols = cols;
    as_weight.data = x.view.data;
    FillWeight(device_, as_weight, x.seed, 1.0f);
    return x;
  }
  Filled Random(int64_t cols) { return Random(type(), b_.tokens, cols); }
  Arena Scratch(size_t bytes) {
    auto buffer = Buffer::Allocate(device_, std::max<size_t>(bytes, 256), "benchmark scratch");
    memory_.status.Update(buffer.status());
    return buffer.ok() ? Arena(std::move(*buffer)) : Arena();
  }
  float Read(const View& view, int64_t row, int64_t col) {
    uint32_t bits = 0;
    const int64_t at = row * view.stride + col;
    device_.Download(&bits, static_cast<char*>(view.data) + Bytes(view.dtype, at), Bytes(view.dtype, 1));
    return view.dtype == DType::kBF16 ? ToFloat(bf16{static_cast<uint16_t>(bits)}) : BitsFloat(bits);
  }
  // The first `count` elements, whose rows follow each other.
  std::vector<float> Download(const View& view, int64_t count) {
    std::vector<char> bytes(Bytes(view.dtype, count));
    device_.Download(bytes.data(), view.data, bytes.size());
    std::vector<float> values(count);
    for (int64_t i = 0; i < count; ++i) {
      values[i] = view.dtype == DType::kBF16 ? ToFloat(reinterpret_cast<const bf16*>(bytes.data())[i])
                                             : reinterpret_cast<const float*>(bytes.data())[i];
    }
    return values;
  }
  // Of samples spread over [0, count).
  static int64_t Sample(int64_t count, int i) { return (count - 1) * i / (kSamples - 1); }

  // Median seconds of a call.
  double Seconds(const std::function<void()>& call) {
    std::vector<double> times;
    for (int i = 0; i < 6; ++i) {
      device_.Synchronize();
      const Clock::time_point start = Clock::now();
      call();
      device_.Synchronize();
      times.push_back(SecondsSince(start));
    }
    std::nth_element(times.begin() + 1, times.begin() + 3, times.end());  // the first call warms up
    return times[3];
  }

  // Runs, verifies and times `call`. check(add) gives add(got, exact) its samples.
  using Add = std::function<void(double got, double exact)>;
  void Row(std::string what, std::string shape, double floor, const std::function<void()>& call,
           const std::function<void(const Add&)>& check) {
    if (!memory_.status.ok()) return;
    BenchRow row;
    row.what = std::move(what);
    row.shape = std::move(shape);
    row.floor = floor;
    call();
    double error = 0, largest = 1e-30;
    check([&](double got, double exact) {
      error = std::isnan(got) ? INFINITY : std::max(error, std::abs(got - exact));
      largest = std::max(largest, std::abs(exact));
    });
    row.error = error / largest;
    row.verified = row.error < kAllowed;
    row.seconds = Seconds(call);
    rows_.push_back(row);
  }

  bool Sees(int64_t p, int64_t j) const {
    return j <= p && (j < b_.mask.sink || p - j <= b_.mask.recent) && (b_.mask.window == 0 || p - j < b_.mask.window);
  }

  // Attention written plainly, one element at a time, for what the kernels give.
  struct PlainAttention {
    const Bench& rows;
    const Filled &qkv, &dout;
    const HeadShape& shape = rows.b_.heads;
    const int d = shape.head_dim;
    const double scale = 1 / std::sqrt(double(d));
    std::vector<float> lse = {};  // [heads][tokens], of the forward kernel
    std::vector<float> out = {};  // [tokens][q_cols], likewise

    int64_t k_col(int head) const { return shape.q_cols() + int64_t{head / shape.group} * d; }
    int64_t v_col(int head) const { return k_col(head) + shape.kv_cols(); }
    double Dot(const Filled& a, int64_t row_a, int64_t col_a, int64_t row_b, int64_t col_b) const {
      double sum = 0;
      for (int i = 0; i < d; ++i) sum += a.at(row_a, col_a + i) * qkv.at(row_b, col_b + i);
      return sum;
    }
    double Score(int head, int64_t p, int64_t j) const {
      return Dot(qkv, p, int64_t{head} * d, j, k_col(head)) * scale;
    }
    // Element `col` of the head's output at row p; everything seen, or the window.
    double Output(int head, int64_t p, int col, bool everything) const {
      double sum = 0, o = 0;  // scores of uniform numbers are small: no maximum is needed
      for (int64_t j = 0; j <= p; ++j) {
        if (!everything && !rows.Sees(p, j)) continue;
        const double e = std::exp(Score(head, p, j));
        sum += e;
        o += e * qkv.at(j, v_col(head) + col);
      }
      return o / sum;
    }
    double Probability(int head, int64_t p, int64_t j) const {
      return std::exp(Score(head, p, j) - lse[head * rows.b_.tokens + p]);
    }
    // The row's sum of dout times out, which the gradient of each of its scores takes away.
    double Delta(int head, int64_t row) const {
      double sum = 0;
      for (int i = 0; i < d; ++i) sum += dout.at(row, head * d + i) * out[row * shape.q_cols() + head * d + i];
      return sum;
    }
    double ScoreGradient(int head, int64_t p, int64_t j, double delta) const {
      return Probability(head, p, j) * (Dot(dout, p, int64_t{head} * d, j, v_col(head)) - delta);
    }
    double QueryGradient(int head, int64_t p, int col) const {
      double dq = 0;
      const double delta = Delta(head, p);
      for (int64_t j = 0; j <= p; ++j) {
        if (rows.Sees(p, j)) dq += ScoreGradient(head, p, j, delta) * qkv.at(j, k_col(head) + col) * scale;
      }
      return dq;
    }
    // Of element `col` of this key and of this value, over all rows and heads that see it.
    std::pair<double, double> KeyValueGradient(int kv_head, int64_t key, int col) const {
      double dk = 0, dv = 0;
      for (int h = kv_head * shape.group; h < (kv_head + 1) * shape.group; ++h) {
        for (int64_t row = key; row < rows.b_.tokens; ++row) {
          if (!rows.Sees(row, key)) continue;
          dk += ScoreGradient(h, row, key, Delta(h, row)) * qkv.at(row, h * d + col) * scale;
          dv += Probability(h, row, key) * dout.at(row, h * d + col);
        }
      }
      return {dk, dv};
    }
  };

  void CheckBackward(PlainAttention& plain, const View& out, const float* lse, const View& dqkv, const Add& add) {
    const HeadShape& shape = b_.heads;
    const int64_t n = b_.tokens;
    const int d = shape.head_dim, heads = shape.kv_heads * shape.group;
    plain.lse.resize(n * heads);
    device_.Download(plain.lse.data(), lse, plain.lse.size() * sizeof(float));
    plain.out = Download(out, n * shape.q_cols());
    for (int i = 0; i < kSamples; ++i) {
      const int head = i % heads, col = (i * 37) % d;
      const int64_t p = Sample(n, i);
      add(Read(dqkv, p, head * d + col), plain.QueryGradient(head, p, col));
      // Keys: a sink, whose rows are all after it, once; else those of the window.
      const int64_t key = i == 1 ? std::min<int64_t>(5, n - 1) : Sample(n, i);
      if (i != 1 && key < b_.mask.sink) continue;
      const auto [dk, dv] = plain.KeyValueGradient(head / shape.group, key, col);
      // Sums over all rows are larger than the others: their own size is their measure.
      const double shrink = i == 1 ? std::max({1.0, std::abs(dk), std::abs(dv)}) : 1.0;
      add(Read(dqkv, key, plain.k_col(head) + col) / shrink, dk / shrink);
      add(Read(dqkv, key, plain.v_col(head) + col) / shrink, dv / shrink);
    }
  }

  // Pairs of a row and a key that it sees.
  double WindowPairs() const {
    double pairs = 0;
    for (int64_t p = 0; p < b_.tokens; ++p) {
      const int64_t sinks = std::min<int64_t>(b_.mask.sink, p + 1);
      pairs += sinks + p + 1 - std::max(sinks, p - b_.mask.recent);
    }
    return pairs;
  }

  void Attention() {
    const HeadShape& shape = b_.heads;
    const int64_t n = b_.tokens;
    const int d = shape.head_dim, heads = shape.kv_heads * shape.group;
    const Filled qkv = Random(shape.qkv_cols()), dout = Random(shape.q_cols());
    const View out = Matrix(type(), shape.q_cols()), dqkv = Matrix(type(), shape.qkv_cols());
    auto* lse = static_cast<float*>(Take(n * heads * sizeof(float)));
    Arena scratch = Scratch(std::max({AttendWindowScratchBytes(device_, n, shape),
                                      AttendWindowBackwardScratchBytes(device_, n, shape, b_.mask),
                                      AttendCausalScratchBytes(device_, n, shape)}));
    if (!memory_.status.ok()) return;
    PlainAttention plain{.rows = *this, .qkv = qkv, .dout = dout};
    const double all_pairs = 0.5 * n * (n + 1);
    const std::string name = absl::StrCat("d", d, " kv ", shape.kv_heads, " group ", shape.group, " tokens ", n);
    const std::string window_name = absl::StrCat(name, " window ", b_.mask.sink, "+", b_.mask.recent);
    const auto check_output = [&](bool everything) {
      return [&, everything](const Add& add) {
        for (int i = 0; i < kSamples; ++i) {
          const int64_t p = Sample(n, i);
          const int head = i % heads, col = (i * 37) % d;
          add(Read(out, p, head * d + col), plain.Output(head, p, col, everything));
        }
      };
    };
    Row(
        "causal attention", name, 4.0 * d * heads * all_pairs / rates_.attention,
        [&] { AttendCausal(device_, out, qkv.view, shape, 0, scratch); }, check_output(true));
    Row(
        "window attention", window_name, 4.0 * d * heads * WindowPairs() / rates_.attention,
        [&] {
          AttendWindow(device_, {out, lse}, {qkv.view, shape, b_.mask}, scratch);
        },
        check_output(false));
    Row(
        "window attention backward", window_name, 10.0 * d * heads * WindowPairs() / rates_.attention,
        [&] {
          AttendWindowBackward(device_, dqkv, dout.view, {out, lse}, {qkv.view, shape, b_.mask}, scratch);
        },
        [&](const Add& add) { CheckBackward(plain, out, lse, dqkv, add); });
  }

  void Linears() {
    const HeadShape& shape = b_.heads;
    struct Shape {
      int64_t outputs, inputs;
    };
    for (const Shape& linear : {Shape{shape.qkv_cols(), b_.hidden}, Shape{b_.hidden, shape.q_cols()},
                                Shape{2 * b_.intermediate, b_.hidden}, Shape{b_.hidden, b_.intermediate}}) {
      const int64_t outputs = linear.outputs, inputs = linear.inputs;
      memory_.buffers.clear();
      const Filled values = Random(DType::kBF16, outputs, inputs), dout = Random(outputs);
      const View dx = Matrix(type(), inputs);
      Weight weight;
      weight.dtype = DType::kBF16;
      weight.rows = outputs;
      weight.cols = inputs;
      weight.data = values.view.data;
      Arena scratch = Scratch(LinearBackwardScratchBytes(device_, b_.tokens, weight));
      Row(
          "linear backward", absl::StrCat(outputs, " x ", inputs, " tokens ", b_.tokens),
          2.0 * b_.tokens * outputs * inputs / rates_.gemm,
          [&] { LinearBackward(device_, dx, dout.view, weight, scratch); },
          [&](const Add& add) {
            for (int i = 0; i < kSamples; ++i) {
              const int64_t r = Sample(b_.tokens, i), c = Sample(inputs, (i * 7) % kSamples);
              double exact = 0;
              for (int64_t o = 0; o < outputs; ++o) exact += dout.at(r, o) * values.at(o, c);
              add(Read(dx, r, c), exact);
            }
          });
    }
  }

  void SwiGlu() {
    const int64_t n = b_.tokens, m = b_.intermediate;
    const double t = Bytes(type(), 1);
    const std::string tokens = absl::StrCat(" tokens ", n);
    const Filled gate_up = Random(2 * m), dout = Random(m);
    const View grad = Matrix(type(), 2 * m);
    Row(
        "SwiGLU backward", absl::StrCat(m, tokens), n * m * 5 * t / rates_.copy,
        [&] { SwiGluBackward(device_, grad, dout.view, gate_up.view); },
        [&](const Add& add) {
          for (int i = 0; i < kSamples; ++i) {
            const int64_t r = Sample(n, i), c = Sample(m, (i * 7) % kSamples);
            const double g = gate_up.at(r, c), u = gate_up.at(r, m + c), d = dout.at(r, c), s = 1 / (1 + std::exp(-g));
            add(Read(grad, r, c), d * u * s * (1 + g * (1 - s)));
            add(Read(grad, r, m + c), d * g * s);
          }
        });
  }

  void RmsNorm() {
    const int64_t n = b_.tokens, dim = b_.hidden;
    const double t = Bytes(type(), 1);
    const std::string tokens = absl::StrCat(" tokens ", n);
    const Filled x = Random(DType::kF32, n, dim), dout = Random(dim), weight = Random(DType::kF32, 1, dim);
    const View grad = Matrix(DType::kF32, dim);
    if (!memory_.status.ok()) return;
    Row(
        "RMS norm backward", absl::StrCat(dim, tokens), n * dim * (12 + t) / rates_.copy,
        [&] { RmsNormBackward(device_, grad, dout.view, x.view, weight.view.as<float>(), 1e-5f); },
        [&](const Add& add) {
          device_.Fill(grad.data, 0, n * dim * sizeof(float));
          RmsNormBackward(device_, grad, dout.view, x.view, weight.view.as<float>(), 1e-5f);
          for (int i = 0; i < kSamples; ++i) {
            const int64_t r = Sample(n, i), c = Sample(dim, (i * 7) % kSamples);
            double squares = 0, along = 0;
            for (int64_t k = 0; k < dim; ++k) {
              squares += x.at(r, k) * x.at(r, k);
              along += weight.at(0, k) * dout.at(r, k) * x.at(r, k);
            }
            const double f = 1 / std::sqrt(squares / dim + 1e-5);
            add(Read(grad, r, c), f * weight.at(0, c) * dout.at(r, c) - x.at(r, c) * f * f * f * along / dim);
          }
        });
  }

  void MixedHeads() {
    const int64_t n = b_.tokens;
    const double t = Bytes(type(), 1);
    const std::string tokens = absl::StrCat(" tokens ", n);
    const HeadShape& shape = b_.heads;
    const int64_t cols = shape.q_cols(), width = cols / shape.kv_heads;
    const Filled streaming = Random(cols), full = Random(cols), dout = Random(cols),
                 gates = Random(DType::kF32, 1, shape.kv_heads);
    const View grad = Matrix(type(), cols);
    auto* dgates = static_cast<float*>(Take(shape.kv_heads * sizeof(float)));
    if (!memory_.status.ok()) return;
    const auto call = [&] {
      MixHeadsBackward(device_, grad, dgates, dout.view, {streaming.view, full.view, gates.view.as<float>(), shape});
    };
    Row("mixed heads backward", absl::StrCat(cols, tokens), n * cols * 4 * t / rates_.copy, call, [&](const Add& add) {
      device_.Fill(dgates, 0, shape.kv_heads * sizeof(float));
      call();
      double sum = 0, squares = 0;
      for (int64_t r = 0; r < n; ++r) {
        for (int64_t c = 0; c < width; ++c) {
          const double term = dout.at(r, c) * (full.at(r, c) - streaming.at(r, c));
          sum += term;
          squares += term * term;
        }
      }
      // The sum of random terms, in units of what it spreads by.
      add(Read(View(dgates, DType::kF32, 1, shape.kv_heads), 0, 0) / std::sqrt(squares), sum / std::sqrt(squares));
      for (int i = 0; i < kSamples; ++i) {
        const int64_t r = Sample(n, i), c = Sample(cols, (i * 7) % kSamples);
        add(Read(grad, r, c), (1 - gates.at(0, c / width)) * dout.at(r, c));
      }
    });
  }

  Device& device_;
  const GradientBench& b_;
  const BenchRates& rates_;
  uint64_t seed_ = 0;
  Memory memory_;
  std::vector<BenchRow> rows_;
};

}  // namespace

absl::StatusOr<std::vector<BenchRow>> BenchGradientOps(Device& device, const GradientBench& bench,
                                                       const BenchRates& rates,
                                                       const std::function<void(int done, int total)>& told) {
  return Bench(device, bench, rates).Run(told);
}

}  // namespace duo
