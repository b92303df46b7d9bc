// `duo bench attention`: single kernels, attention and decode's matrices, at the shapes of real models, each verified
// against an f64 reference.

#include "absl/functional/function_ref.h"
#include "launcher/bench/bench.h"
#include "launcher/terminal/progress.h"

namespace duo {

namespace {

struct KernelTimes {
  Device& device;
  BenchRates rates;
  const std::vector<int64_t>& contexts;
  Progress& progress;
  bool counting = true;  // how many there are; then they are timed
  int64_t kernels = 0, timed = 0;
  std::vector<BenchRow> rows = {};
  absl::Status failed = {};

  void Add(absl::FunctionRef<absl::StatusOr<BenchRow>()> time) {
    if (counting) {
      ++kernels;
      return;
    }
    progress.Update(timed++, kernels);
    absl::StatusOr<BenchRow> row = time();
    if (row.ok()) {
      rows.push_back(*std::move(row));
    } else {
      failed.Update(row.status());
    }
  }
  bool cuda() const { return device.is_cuda(); }
};

// One row of each sequence, at every context.
void TimeDecode(KernelTimes& times) {
  std::vector<KvFormat> formats = {KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8, KvFormat::kInt4};
  if (!times.cuda()) formats.insert(formats.begin(), KvFormat::kF32);
  for (KvFormat format : formats) {
    for (auto [kv_heads, group] : {std::pair(8, 4), std::pair(8, 1), std::pair(1, 4), std::pair(1, 1)}) {
      for (int64_t tokens : times.contexts) {
        DecodeBench b;
        b.format = format;
        b.kv_heads = kv_heads;
        b.group = group;
        b.tokens = tokens;
        times.Add([&] { return BenchDecodeAttention(times.device, b, times.rates); });
      }
    }
  }
}

// Rows of one sequence, and of forks that share all but their last 200 tokens, at the first context.
void TimeCompany(KernelTimes& times) {
  std::vector<KvFormat> formats = {KvFormat::kBF16, KvFormat::kInt8, KvFormat::kInt4};
  if (!times.cuda()) formats.insert(formats.begin(), KvFormat::kF32);
  for (KvFormat format : formats) {
    for (auto [sequences, rows_each] : {std::pair(1, 1), std::pair(1, 2), std::pair(1, 8), std::pair(1, 16),
                                        std::pair(1, 64), std::pair(8, 1), std::pair(16, 1), std::pair(64, 1)}) {
      if (!times.cuda() && sequences * rows_each > 16) continue;
      DecodeBench b;
      b.format = format;
      b.kv_heads = 4;
      b.rows = rows_each;
      b.sequences = sequences;
      b.tokens = times.contexts.front();
      b.shared = sequences > 1 ? b.tokens - 200 : 0;
      times.Add([&] { return BenchDecodeAttention(times.device, b, times.rates); });
    }
  }
}

void TimeStreaming(KernelTimes& times) {
  for (int rows : {1, 4096}) {
    StreamingBench b;
    b.rows = rows;
    times.Add([&] { return BenchStreamingAttention(times.device, b, times.rates); });
  }
}

void TimePrefill(KernelTimes& times) {
  const auto add = [&](int kv_heads, int rows, int64_t history, KvFormat format, int head_dim) {
    PrefillBench b;
    b.kv_heads = kv_heads;
    b.rows = rows;
    b.history = history;
    b.format = format;
    b.head_dim = head_dim;
    times.Add([&] { return BenchPrefillAttention(times.device, b, times.rates); });
  };
  const KvFormat plain = PrefillBench().format;
  const int head_dim = PrefillBench().head_dim;
  for (int kv_heads : {1, 4, 8}) {
    if (times.cuda()) {
      add(kv_heads, 8192, 131072, plain, head_dim);
    } else {
      add(kv_heads, 512, 8192, plain, head_dim);
    }
  }
  if (!times.cuda()) return;
  add(8, 512, 100000, plain, head_dim);  // a short chunk, and a long one there
  add(8, 512, 100000, KvFormat::kInt4, head_dim);
  add(8, 32768, 100000, plain, head_dim);
  add(8, 32768, 0, plain, head_dim);
  add(8, 8192, 131072, plain, 64);
  add(8, 8192, 131072, KvFormat::kInt4, head_dim);
}

// The matrices of a step of the Llama-3-8B shape, gate and up, down, qkv: of one answer, and of many. Then GGUF's
// Q4_K and Q6_K, whose codes have scales of two levels, and codes of a table: IQ4_XS, IQ4_NL, MXFP4.
void TimeLinear(KernelTimes& times) {
  if (!times.cuda()) return;
  for (int64_t rows : {1, 64, 128, 256}) {
    for (DType type : {DType::kBF16, DType::kF8E4M3, DType::kI8, DType::kI4}) {
      for (auto [outputs, inputs] : {std::pair(28672, 4096), std::pair(4096, 14336), std::pair(6144, 4096)}) {
        LinearBench b;
        b.type = type;
        b.rows = rows;
        b.outputs = outputs;
        b.inputs = inputs;
        times.Add([&] { return BenchLinear(times.device, b, times.rates); });
      }
    }
  }
  const LinearBench formats[] = {{.type = DType::kI4, .group = 32, .block = 256},
                                 {.type = DType::kI8, .group = 16, .block = 256},
                                 {.type = DType::kI4, .group = 32, .block = 256, .table = CodeTable::kIq4},
                                 {.type = DType::kI4, .group = 32, .table = CodeTable::kIq4},
                                 {.type = DType::kI4, .group = 32, .table = CodeTable::kE2M1}};
  for (const LinearBench& format : formats) {
    for (int64_t rows : {1, 16, 128}) {
      if (rows > 1 && format.table == CodeTable::kNone) continue;
      for (auto [outputs, inputs] : {std::pair(28672, 4096), std::pair(4096, 14336), std::pair(6144, 4096)}) {
        LinearBench b = format;
        b.rows = rows;
        b.outputs = outputs;
        b.inputs = inputs;
        times.Add([&] { return BenchLinear(times.device, b, times.rates); });
      }
    }
  }
  for (int64_t rows : {1, 8}) {  // gpt-oss-20b's q, k and v: columns that are no multiple of 128
    LinearBench b;
    b.type = DType::kI4;
    b.group = 64;
    b.rows = rows;
    b.outputs = 5120;
    b.inputs = 2880;
    times.Add([&] { return BenchLinear(times.device, b, times.rates); });
  }
}

}  // namespace

absl::Status BenchAttention(const BenchFlags& flags, Runtime& runtime) {
  DUO_CHECK(!flags.contexts.empty());
  const Rates rates = RatesOf(*runtime.device);
  Progress progress("timing", "kernels", !runtime.leader());
  KernelTimes times{*runtime.device, {rates.copy, rates.gemm, rates.attention}, flags.contexts, progress};
  for (const bool counting : {true, false}) {
    times.counting = counting;
    for (const std::string& kernels : flags.kernels) {
      if (kernels == "decode") TimeDecode(times);
      if (kernels == "company") TimeCompany(times);
      if (kernels == "streaming") TimeStreaming(times);
      if (kernels == "prefill") TimePrefill(times);
      if (kernels == "linear") TimeLinear(times);
    }
  }
  progress.Done();
  if (!times.failed.ok()) return times.failed;
  if (times.rows.empty()) return absl::InvalidArgumentError("--kernels linear: these matrices are timed on CUDA alone");
  return PrintKernelRows(flags, runtime, rates, times.rows, "attention");
}

}  // namespace duo
