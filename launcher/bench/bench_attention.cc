// `duo bench attention`: single kernels, attention and decode's matrices, at the shapes of real models, each verified
// against an f64 reference.

#include "launcher/bench/bench.h"

namespace duo {

absl::Status BenchAttention(const BenchFlags& flags, Runtime& runtime) {
  Device& device = *runtime.device;
  const bool cuda = device.is_cuda();
  const Rates rates = RatesOf(device);
  const BenchRates ceilings{rates.copy, rates.gemm, rates.attention};
  std::vector<BenchRow> rows;
  absl::Status failed;
  auto add = [&](absl::StatusOr<BenchRow> row) {
    if (row.ok()) {
      rows.push_back(*row);
    } else if (failed.ok()) {
      failed = row.status();
    }
  };
  std::vector<KvFormat> formats = {KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8, KvFormat::kInt4};
  if (!cuda) formats.insert(formats.begin(), KvFormat::kF32);
  const std::vector<int64_t> contexts = flags.contexts;
  DUO_CHECK(!contexts.empty());
  for (KvFormat format : formats) {
    for (auto [kv_heads, group] : {std::pair(8, 4), std::pair(8, 1), std::pair(1, 4), std::pair(1, 1)}) {
      for (int64_t tokens : contexts) {
        DecodeBench b;
        b.format = format;
        b.kv_heads = kv_heads;
        b.group = group;
        b.tokens = tokens;
        add(BenchDecodeAttention(device, b, ceilings));
      }
    }
  }
  // Rows of one sequence, and of forks that share all but their last 200 tokens.
  for (KvFormat format : {KvFormat::kBF16, KvFormat::kInt4}) {
    for (auto [sequences, rows_each] : {std::pair(1, 8), std::pair(1, 64), std::pair(16, 1), std::pair(64, 1)}) {
      if (!cuda && sequences * rows_each > 16) continue;
      DecodeBench b;
      b.format = format;
      b.kv_heads = 4;
      b.rows = rows_each;
      b.sequences = sequences;
      b.tokens = contexts.front();
      b.shared = sequences > 1 ? b.tokens - 200 : 0;
      add(BenchDecodeAttention(device, b, ceilings));
    }
  }
  for (int rows_now : {1, 4096}) {
    StreamingBench b;
    b.rows = rows_now;
    add(BenchStreamingAttention(device, b, ceilings));
  }
  for (int kv_heads : {1, 4, 8}) {
    PrefillBench b;
    b.kv_heads = kv_heads;
    b.rows = cuda ? 8192 : 512;
    b.history = cuda ? 131072 : 8192;
    add(BenchPrefillAttention(device, b, ceilings));
  }
  if (cuda) {  // a short chunk, a chunk without history, coded pages, head size 64
    PrefillBench b;
    b.kv_heads = 8;
    b.rows = 512;
    b.history = 100000;
    add(BenchPrefillAttention(device, b, ceilings));
    b.rows = 32768;
    b.history = 0;
    add(BenchPrefillAttention(device, b, ceilings));
    b.rows = 8192;
    b.history = 131072;
    b.head_dim = 64;
    add(BenchPrefillAttention(device, b, ceilings));
    b.head_dim = 128;
    b.format = KvFormat::kInt4;
    add(BenchPrefillAttention(device, b, ceilings));
  }
  if (cuda) {  // decode's matrices of the Llama-3-8B shape: gate and up, down, qkv
    for (DType type : {DType::kBF16, DType::kF8E4M3, DType::kI8, DType::kI4}) {
      for (auto [outputs, inputs] : {std::pair(28672, 4096), std::pair(4096, 14336), std::pair(6144, 4096)}) {
        LinearBench b;
        b.type = type;
        b.outputs = outputs;
        b.inputs = inputs;
        add(BenchLinear(device, b, ceilings));
      }
    }
  }
  if (!failed.ok()) return failed;
  return PrintKernelRows(flags, runtime, rates, rows, "attention");
}

}  // namespace duo
