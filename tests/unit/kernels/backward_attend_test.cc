// Attention of streaming heads over a whole sequence and its gradient: against finite differences in f64, and no worse
// than twice a plain path at the device's precision.
#include "devices.h"
#include "finite_difference.h"
#include "kernels/backward.h"

namespace duo {
namespace {

struct Shapes {
  int rows, kv_heads, group, d;
  WindowMask mask;
};

bool Sees(const WindowMask& m, int p, int j) {
  return j <= p && (j < m.sink || p - j <= m.recent) && (m.window == 0 || p - j < m.window);
}

// The plain path: [rows][cols] matrices as the ops have them. F is double for the truth, float with what is stored
// rounded to `type` otherwise.
template <typename F>
struct PlainAttention {
  std::vector<F> out, lse, dqkv;
  F cancelled = 0;  // the largest sum of |terms| that dP - D of one pair subtracts, as dq and dk see it

  PlainAttention(const Shapes& s, const std::vector<F>& qkv, const std::vector<F>& dout, DType type) {
    const HeadShape shape{s.d, s.group, s.kv_heads};
    const int heads = s.kv_heads * s.group, cols = shape.qkv_cols(), q_cols = shape.q_cols(), d = s.d;
    const F scale = 1 / std::sqrt(static_cast<F>(d));
    out.assign(s.rows * q_cols, 0);
    lse.assign(heads * s.rows, 0);
    dqkv.assign(s.rows * cols, 0);
    std::vector<F> p(s.rows), o(d), dq(d);
    for (int h = 0; h < heads; ++h) {
      const int k_col = q_cols + h / s.group * d, v_col = k_col + shape.kv_cols();
      for (int row = 0; row < s.rows; ++row) {
        const F *q = &qkv[row * cols + h * d], *grad = dout.empty() ? nullptr : &dout[row * q_cols + h * d];
        F top = -INFINITY, sum = 0;
        for (int j = 0; j <= row; ++j) {
          if (!Sees(s.mask, row, j)) continue;
          p[j] = DotOf(q, &qkv[j * cols + k_col], d) * scale;
          top = std::max(top, p[j]);
        }
        std::fill(o.begin(), o.end(), F{0});
        for (int j = 0; j <= row; ++j) {
          if (!Sees(s.mask, row, j)) continue;
          const F e = std::exp(p[j] - top);
          sum += e;
          for (int i = 0; i < d; ++i) o[i] += Stored(type, e) * qkv[j * cols + v_col + i];
        }
        for (int i = 0; i < d; ++i) out[row * q_cols + h * d + i] = Stored(type, o[i] / sum);
        const F log_sum = lse[h * s.rows + row] = top + std::log(sum);
        if (grad == nullptr) continue;
        const F delta = DotOf(grad, &out[row * q_cols + h * d], d);
        std::fill(dq.begin(), dq.end(), F{0});
        for (int j = 0; j <= row; ++j) {
          if (!Sees(s.mask, row, j)) continue;
          const F probability = std::exp(p[j] - log_sum);
          const F ds = Stored(type, probability * (DotOf(grad, &qkv[j * cols + v_col], d) - delta));
          const F stored = Stored(type, probability);
          F terms = 0;
          for (int i = 0; i < d; ++i) {
            terms +=
                std::abs(grad[i]) * (std::abs(qkv[j * cols + v_col + i]) + std::abs(out[row * q_cols + h * d + i]));
          }
          cancelled = std::max(cancelled, probability * terms * scale);
          for (int i = 0; i < d; ++i) {
            dq[i] += ds * qkv[j * cols + k_col + i] * scale;
            dqkv[j * cols + k_col + i] += ds * q[i] * scale;
            dqkv[j * cols + v_col + i] += stored * grad[i];
          }
        }
        for (int i = 0; i < d; ++i) dqkv[row * cols + h * d + i] = dq[i];
      }
    }
    for (F& x : dqkv) x = Stored(type, x);
  }

  static F DotOf(const F* a, const F* b, int d) {
    F sum = 0;
    for (int i = 0; i < d; ++i) sum += a[i] * b[i];
    return sum;
  }
};

class BackwardAttention : public DeviceTest {
 protected:
  // Rows of qkv, out and their gradients lie in wider matrices, whose other columns must stay as they were.
  void Run(const Shapes& s) {
    SCOPED_TRACE(testing::Message() << s.rows << " rows, " << s.kv_heads << " x " << s.group << " heads of " << s.d
                                    << ", sink " << s.mask.sink << " recent " << s.mask.recent << " window "
                                    << s.mask.window);
    const HeadShape shape{s.d, s.group, s.kv_heads};
    const DType type = activation();
    const int cols = shape.qkv_cols(), q_cols = shape.q_cols(), heads = s.kv_heads * s.group;
    std::mt19937 rng(s.rows * 31 + s.d);
    std::vector<float> qkv = Normal(rng, s.rows * cols), dout = Normal(rng, s.rows * q_cols);
    for (std::vector<float>* x : {&qkv, &dout}) {
      for (float& v : *x) v = RoundTo(type, v);
    }
    const PlainAttention<double> truth(s, Cast<double>(qkv), Cast<double>(dout), type);
    const PlainAttention<float> plain(s, qkv, dout, type);

    const auto upload = [&](const std::vector<float>& x, int width) {
      std::vector<float> padded(s.rows * (width + 8), NAN);
      for (int r = 0; r < s.rows; ++r) std::copy_n(&x[r * width], width, &padded[r * (width + 8)]);
      return UploadAs(device(), type, padded);
    };
    const auto allocate = [&](int width) { return Allocate(device(), Bytes(type, s.rows * (width + 8))); };
    const auto of = [&](const Buffer& b, int width) { return View(b.data(), type, s.rows, width, width + 8); };
    const auto download = [&](const Buffer& b, int width) {
      const std::vector<float> padded = DownloadAs(device(), type, b.data(), s.rows * (width + 8));
      std::vector<float> x;
      for (int r = 0; r < s.rows; ++r) {
        x.insert(x.end(), &padded[r * (width + 8)], &padded[r * (width + 8)] + width);
        for (int c = width; c < width + 8; ++c) EXPECT_TRUE(std::isnan(padded[r * (width + 8) + c]));
      }
      return x;
    };
    const Buffer device_qkv = upload(qkv, cols), device_dout = upload(dout, q_cols), out = allocate(q_cols),
                 dqkv = allocate(cols), lse = Allocate(device(), heads * s.rows * 4);
    Arena forward = Scratch(device(), AttendWindowScratchBytes(device(), s.rows, shape));
    AttendWindow(device(), {of(out, q_cols), lse.as<float>()}, {of(device_qkv, cols), shape, s.mask}, forward);
    Arena backward = Scratch(device(), AttendWindowBackwardScratchBytes(device(), s.rows, shape, s.mask));
    AttendWindowBackward(device(), of(dqkv, cols), of(device_dout, q_cols), {of(out, q_cols), lse.as<float>()},
                         {of(device_qkv, cols), shape, s.mask}, backward);
    ExpectAsGoodAs(download(out, q_cols), plain.out, truth.out, type, "out");
    ExpectAsGoodAs(Download<float>(device(), lse.data(), heads * s.rows), plain.lse, truth.lse, DType::kF32, "lse");
    const std::vector<float> got = download(dqkv, cols);
    for (auto [what, first, count] : {std::tuple("dq", 0, q_cols), std::tuple("dk", q_cols, shape.kv_cols()),
                                      std::tuple("dv", q_cols + shape.kv_cols(), shape.kv_cols())}) {
      const auto part = [&, first = first, count = count](const auto& x) {
        std::remove_cvref_t<decltype(x)> y;
        for (int r = 0; r < s.rows; ++r) {
          y.insert(y.end(), x.begin() + r * cols + first, x.begin() + r * cols + first + count);
        }
        return y;
      };
      // A row that sees one key has a gradient of 0, the difference of two equal sums of d terms: each may round as a
      // random walk does.
      const std::vector<double> exact = part(truth.dqkv);
      const double allowed = 2 * MaxError(part(plain.dqkv), exact) + 4 * UnitRoundoff(type) * MaxMagnitude(exact) +
                             4 * std::sqrt(s.d) * UnitRoundoff(DType::kF32) * truth.cancelled;
      EXPECT_LE(MaxError(part(got), exact), allowed) << what;
    }
    // The same bits in every run.
    device().Fill(dqkv.data(), 0xff, dqkv.size());
    AttendWindowBackward(device(), of(dqkv, cols), of(device_dout, q_cols), {of(out, q_cols), lse.as<float>()},
                         {of(device_qkv, cols), shape, s.mask}, backward);
    EXPECT_EQ(download(dqkv, cols), got);
  }
};
INSTANTIATE_ON_DEVICES(BackwardAttention);

TEST(BackwardAttentionReference, IsTheGradientByFiniteDifferences) {
  for (const Shapes& s : {Shapes{9, 1, 1, 8, {2, 3, 0}}, Shapes{17, 2, 3, 6, {4, 0, 0}}, Shapes{17, 1, 4, 8, {4, 5, 7}},
                          Shapes{12, 1, 2, 8, {100, 0, 0}}, Shapes{12, 1, 2, 8, {0, 100, 0}}}) {
    const HeadShape shape{s.d, s.group, s.kv_heads};
    std::mt19937 rng(s.rows);
    const std::vector<double> qkv = Cast<double>(Normal(rng, s.rows * shape.qkv_cols())),
                              dout = Cast<double>(Normal(rng, s.rows * shape.q_cols()));
    const auto loss = [&](const std::vector<double>& x) {
      return Dot(PlainAttention<double>(s, x, {}, DType::kF32).out, dout);
    };
    ExpectGradient(loss, qkv, PlainAttention<double>(s, qkv, dout, DType::kF32).dqkv, "dqkv", 200);
  }
}

TEST_P(BackwardAttention, MatchesForEveryGroupAndHeadSize) {
  for (int d : {64, 128}) {
    for (int group : {1, 3, 4}) Run({150, 2, group, d, {16, 40, 0}});
  }
}

TEST_P(BackwardAttention, MatchesForUglyLengths) {
  for (int rows : {1, 2, 15, 63, 64, 65, 129, 331}) Run({rows, 1, 3, 64, {17, 70, 0}});
}

TEST_P(BackwardAttention, MatchesWhereSinksAndWindowMeet) {
  for (int rows : {40, 200}) {
    for (const WindowMask& mask : {WindowMask{64, 256, 0}, WindowMask{64, 0, 0}, WindowMask{0, 0, 0},
                                   WindowMask{0, 33, 0}, WindowMask{65, 63, 0}, WindowMask{1, 1, 0},
                                   WindowMask{500, 3, 0}, WindowMask{64, 500, 0}, WindowMask{0, 4000, 0}}) {
      Run({rows, 1, 2, 64, mask});
    }
  }
}

TEST_P(BackwardAttention, MatchesWithASlidingWindow) {
  for (int window : {1, 20, 64, 100, 1000}) Run({210, 1, 2, 64, {30, 60, window}});
}

TEST_P(BackwardAttention, MatchesOnLongSequences) {
  Run({1300, 2, 1, 64, {64, 256, 0}});
  Run({1153, 1, 4, 128, {128, 256, 0}});
  Run({1100, 1, 1, 64, {600, 20, 0}});
  Run({1400, 1, 1, 64, {10, 650, 0}});
  Run({1100, 2, 3, 64, {0, 4000, 0}});  // all keys: a student's own full attention
  Run({1100, 1, 1, 64, {64, 100, 300}});
}

TEST_P(BackwardAttention, CausalAttentionIsThatOfAWindowWithoutEnd) {
  for (auto [rows, window] : {std::pair(1, 0), std::pair(200, 0), std::pair(700, 0), std::pair(700, 150)}) {
    for (int d : {64, 128}) {
      const Shapes s{rows, 2, 2, d, {rows, 0, window}};
      const HeadShape shape{d, s.group, s.kv_heads};
      std::mt19937 rng(rows);
      std::vector<float> qkv = Normal(rng, rows * shape.qkv_cols());
      for (float& v : qkv) v = RoundTo(activation(), v);
      const PlainAttention<double> truth(s, Cast<double>(qkv), {}, activation());
      const PlainAttention<float> plain(s, qkv, {}, activation());
      Buffer device_qkv = UploadAs(device(), activation(), qkv),
             out = Allocate(device(), Bytes(activation(), rows * shape.q_cols()));
      Arena scratch = Scratch(device(), AttendCausalScratchBytes(device(), rows, shape));
      AttendCausal(device(), View(out.data(), activation(), rows, shape.q_cols()),
                   View(device_qkv.data(), activation(), rows, shape.qkv_cols()), shape, window, scratch);
      ExpectAsGoodAs(DownloadAs(device(), activation(), out.data(), truth.out.size()), plain.out, truth.out,
                     activation(), "causal");
    }
  }
}

// Two chunks' worth of rows and more, so that keys of one are seen from the next.
TEST(BackwardOnTheCpu, DoesNotDependOnTheNumberOfThreads) {
  const HeadShape shape{64, 2, 2};
  const WindowMask mask{64, 256, 0};
  const int rows = 1100, cols = shape.qkv_cols(), q_cols = shape.q_cols();
  std::vector<float> grads[3], gates[3], dx[3];
  const int threads[3] = {1, 2, 5};
  for (int run = 0; run < 3; ++run) {
    auto cpu = Device::Cpu(threads[run]);
    std::mt19937 rng(4);
    std::vector<float> qkv = Normal(rng, rows * cols), dout = Normal(rng, rows * q_cols), full = dout,
                       out(rows * q_cols), lse(rows * 4), weights = Normal(rng, cols * 264);
    const auto of = [&](std::vector<float>& x, int width) { return View(x.data(), DType::kF32, rows, width); };
    grads[run].resize(rows * cols);
    gates[run].assign(2, 0.5f);
    dx[run].resize(rows * 264);
    Weight weight;
    weight.dtype = DType::kF32;
    weight.rows = cols;
    weight.cols = 264;
    weight.data = weights.data();
    Arena scratch = Scratch(*cpu, std::max({AttendWindowScratchBytes(*cpu, rows, shape),
                                            AttendWindowBackwardScratchBytes(*cpu, rows, shape, mask),
                                            LinearBackwardScratchBytes(*cpu, rows, weight)}));
    AttendWindow(*cpu, {of(out, q_cols), lse.data()}, {of(qkv, cols), shape, mask}, scratch);
    AttendWindowBackward(*cpu, of(grads[run], cols), of(dout, q_cols), {of(out, q_cols), lse.data()},
                         {of(qkv, cols), shape, mask}, scratch);
    LinearBackward(*cpu, of(dx[run], 264), of(grads[run], cols), weight, scratch);
    const std::vector<float> a = gates[run];
    MixHeadsBackward(*cpu, of(dout, q_cols), gates[run].data(), of(dout, q_cols),
                     {of(out, q_cols), of(full, q_cols), a.data(), shape});
    EXPECT_EQ(grads[run], grads[0]) << threads[run];
    EXPECT_EQ(dx[run], dx[0]) << threads[run];
    EXPECT_EQ(gates[run], gates[0]) << threads[run];
  }
}

TEST_P(BackwardAttention, RefusesHeadSizesThatItCannotDo) {
  EXPECT_TRUE(CheckBackward(device(), 64, 3).ok());
  EXPECT_TRUE(CheckBackward(device(), 128, 8).ok());
  const absl::Status refused = CheckBackward(device(), cuda() ? 80 : 258, 1);
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(refused.message().find(cuda() ? "80" : "258"), std::string::npos) << refused;
}

}  // namespace
}  // namespace duo
