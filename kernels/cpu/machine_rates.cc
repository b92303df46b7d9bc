#include "kernels/machine_rates.h"

#include <omp.h>

#include <algorithm>
#include <vector>

#include "dnnl.h"
#include "kernels/attention.h"
#include "kernels/base/buffer.h"
#include "kernels/base/math.h"
#include "kernels/base/seconds.h"
#include "kernels/cpu/simd.h"
#include "kernels/ops.h"

namespace duo {
namespace {

constexpr double kSeconds = 0.25;

// The best rate of several goes in kSeconds: `go` returns how much it did.
template <typename Go>
double BestRate(const Go& go) {
  double best = 0;
  for (const Clock::time_point begin = Clock::now(); SecondsSince(begin) < kSeconds;) {
    const Clock::time_point start = Clock::now();
    const double work = go();
    best = std::max(best, work / SecondsSince(start));
  }
  return best;
}

}  // namespace

double MeasureFmaRate(Device& device) {
  DUO_CHECK(!device.is_cuda());
  const int threads = device.pool().threads();
  std::vector<double> work(threads);
  return BestRate([&] {
    device.pool().ParallelFor(threads, [&](int64_t item, int) {
      // Some 20 ms, so that clocks that differ between processors do not matter.
      float sink[3] = {0.999f, 0.001f, 0.0f};
      work[item] = cpu::Simd().multiply_add_rounds(8000000, sink);
    });
    double total = 0;
    for (double w : work) total += w;
    return total;
  });
}

double MeasureReadBandwidth(Device& device) {
  DUO_CHECK(!device.is_cuda());
  constexpr int64_t kPieceFloats = 1 << 18;  // 1 MiB: handed out in order, like the rows of a weight
  const int64_t bytes = std::min<int64_t>(int64_t{1} << 30, device.FreeMemory() / 4);
  const int64_t pieces = std::max<int64_t>(1, bytes / int64_t{kPieceFloats * sizeof(float)});
  auto buffer = Buffer::Allocate(device, pieces * kPieceFloats * sizeof(float), "the memory benchmark");
  DUO_CHECK(buffer.ok());
  float* x = buffer->as<float>();
  std::vector<float> sums(pieces);
  device.pool().ParallelFor(pieces, [&](int64_t p, int) { std::fill_n(x + p * kPieceFloats, kPieceFloats, 1.0f); });
  return BestRate([&] {
    device.pool().ParallelFor(pieces,
                              [&](int64_t p, int) { sums[p] = cpu::Simd().read(x + p * kPieceFloats, kPieceFloats); });
    for (float s : sums) DUO_CHECK_EQ(s, static_cast<float>(kPieceFloats));
    return static_cast<double>(pieces * kPieceFloats * sizeof(float));
  });
}

double MeasureLibraryGemmRate(Device& device, int64_t rows, int64_t outs, int64_t cols) {
  DUO_CHECK(!device.is_cuda());
  std::vector<float> x(rows * cols, 0.5f), w(outs * cols, 0.25f), y(rows * outs);
  const int before = omp_get_max_threads();
  omp_set_num_threads(device.pool().threads());
  const double rate = BestRate([&] {
    DUO_CHECK_EQ(static_cast<int>(dnnl_sgemm('N', 'T', rows, outs, cols, 1.0f, x.data(), cols, w.data(), cols, 0.0f,
                                             y.data(), outs)),
                 static_cast<int>(dnnl_success));
    return 2.0 * rows * outs * cols;
  });
  omp_set_num_threads(before);
  return rate;
}

double MeasureLinearRate(Device& device, int64_t rows, int64_t outs, int64_t cols) {
  DUO_CHECK(!device.is_cuda());
  std::vector<float> x(rows * cols, 0.5f), y(rows * outs);
  std::vector<bf16> w(outs * cols, ToBf16(0.25f));
  Weight weight;
  weight.rows = outs;
  weight.cols = cols;
  weight.data = w.data();
  auto memory = Buffer::Allocate(device, LinearScratchBytes(device, rows, weight), "the GEMM benchmark");
  DUO_CHECK(memory.ok());
  Arena scratch(std::move(*memory));
  return BestRate([&] {
    Linear(device, View(y.data(), DType::kF32, rows, outs), View(x.data(), DType::kF32, rows, cols), weight, scratch);
    return 2.0 * rows * outs * cols;
  });
}

double MeasureAttentionRate(Device& device, int head_dim, int group, int rows, int history) {
  DUO_CHECK(!device.is_cuda());
  constexpr int kHeads = 2;
  const HeadShape shape{head_dim, group, kHeads};
  PagedKv kv;
  kv.page = {KvFormat::kF32, head_dim};
  kv.num_heads = kHeads;
  const int64_t pages = CeilDiv(history + rows, kPageTokens);
  kv.head_stride = pages * kv.page.page_bytes();
  std::vector<float> codes(kHeads * kv.head_stride / sizeof(float));
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<float>(i % 97) * 0.01f - 0.5f;
  kv.base = reinterpret_cast<uint8_t*>(codes.data());
  std::vector<int32_t> table(pages), row_seq(rows, 0), positions(rows);
  for (int64_t p = 0; p < pages; ++p) table[p] = static_cast<int32_t>(p);
  for (int r = 0; r < rows; ++r) positions[r] = history + r;
  kv.tables = table.data();
  kv.table_stride = pages;
  SeqSpan span;
  span.num_rows = rows;
  span.history = history;
  SeqBatch batch{&span, row_seq.data(), positions.data(), &span, 1, rows, rows, history + rows};
  std::vector<float> qkv(static_cast<size_t>(rows) * shape.qkv_cols()), out(static_cast<size_t>(rows) * shape.q_cols());
  for (size_t i = 0; i < qkv.size(); ++i) qkv[i] = static_cast<float>(i % 89) * 0.01f - 0.4f;
  auto memory = Buffer::Allocate(device, PrefillScratchBytes(device, rows, group, kv, history + rows) + 4096,
                                 "the attention benchmark");
  DUO_CHECK(memory.ok());
  Arena scratch(std::move(*memory));
  const double pairs = static_cast<double>(rows) * history + 0.5 * rows * (rows + 1.0);
  return BestRate([&] {
    scratch.Rewind(0);
    AttendPrefill(device, {View(out.data(), DType::kF32, rows, shape.q_cols())},
                  {View(qkv.data(), DType::kF32, rows, shape.qkv_cols()), shape, batch}, kv, true, scratch);
    return 4.0 * head_dim * pairs * kHeads * group;
  });
}

}  // namespace duo
