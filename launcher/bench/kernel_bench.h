// Benchmarks of single kernels at the shapes of real models, for `duo bench attention`: every case is verified against
// an f64 reference first, then timed with buffers larger than the L2 cache and set against its floor, the bytes or
// operations that the work needs at the rates measured on an H100 80GB (BenchRates).
// Works on any Device; made for CUDA. Allocates and frees its own memory; fails when it does not fit.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/attention.h"
#include "kernels/ops.h"

namespace duo {

// The ceilings that all ratios are taken against, fixed so that results compare: bytes/s and FLOP/s.
struct BenchRates {
  double copy = 3.03e12;
  double gemm = 768e12;
  double attention = 640e12;
};

struct BenchRow {
  std::string what;   // "decode", "prefill", "streaming", "linear"
  std::string shape;  // readable
  double seconds = 0;
  double floor = 0;  // seconds
  double error = 0;  // largest, relative to the largest reference value
  bool verified = false;
  double ratio() const { return seconds / floor; }
};

struct DecodeBench {
  KvFormat format = KvFormat::kInt4;
  int head_dim = 128;
  int kv_heads = 8;
  int group = 4;
  int rows = 1;  // of each sequence
  int sequences = 1;
  int64_t tokens = 131072;
  int64_t shared = 0;  // tokens at the beginning that lie in the same pages for all sequences; rounded down to pages
};
// The floor reads shared pages once, and does every row's products.
absl::StatusOr<BenchRow> BenchDecodeAttention(Device& device, const DecodeBench& bench, const BenchRates& rates = {});

struct PrefillBench {
  KvFormat format = KvFormat::kBF16;
  int head_dim = 128;
  int kv_heads = 4;
  int group = 4;
  int rows = 8192;
  int64_t history = 65536;
};
absl::StatusOr<BenchRow> BenchPrefillAttention(Device& device, const PrefillBench& bench, const BenchRates& rates = {});

struct StreamingBench {
  int head_dim = 128;
  int kv_heads = 4;
  int group = 4;
  int rows = 1;
  int sink = 64;
  int recent = 256;
  int64_t history = 1000000;
};
// The floor counts the keys that a row sees.
absl::StatusOr<BenchRow> BenchStreamingAttention(Device& device, const StreamingBench& bench,
                                                 const BenchRates& rates = {});

struct LinearBench {
  DType type = DType::kBF16;
  int group = 0;  // columns of a group of codes, 0: int4's 128; int8 has none
  int block =
      0;  // two levels of scale: columns of a block of groups. 4 bits, 32, 256: GGUF's Q4_K; 8, 16, 256: its Q6_K
  CodeTable table = CodeTable::kNone;  // of 4 bits, in groups of 32
  int64_t rows = 1;
  int64_t outputs = 28672;
  int64_t inputs = 4096;
};
absl::StatusOr<BenchRow> BenchLinear(Device& device, const LinearBench& bench, const BenchRates& rates = {});

}  // namespace duo
