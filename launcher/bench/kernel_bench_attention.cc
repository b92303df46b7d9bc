// kernel_bench.h: attention, over pages that repeat a pool of random ones, so that an f64 reference stays cheap.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "kernels/base/math.h"
#include "launcher/bench/kernel_bench.h"
#include "launcher/bench/kernel_bench_parts.h"

namespace duo {
namespace {

constexpr int kPool = 32;  // distinct random pages; memory repeats them

// kPool pages of normally distributed keys and values in a format, and what they decode to.
struct PagePool {
  std::vector<uint8_t> bytes;
  std::vector<float> k, v;  // [page][token][head_dim]
};
PagePool MakePool(const PageLayout& layout, std::mt19937& rng) {
  const int d = layout.head_dim;
  PagePool pool;
  pool.bytes.resize(kPool * layout.page_bytes());
  for (int is_v = 0; is_v < 2; ++is_v) {
    std::vector<float>& values = is_v ? pool.v : pool.k;
    values = Normal(rng, size_t{kPool} * kPageTokens * d);
    for (int t = 0; t < kPool * kPageTokens; ++t) {
      uint8_t* page = &pool.bytes[t / kPageTokens * layout.page_bytes()];
      uint8_t* codes = page + (is_v ? layout.v_codes(t % kPageTokens) : layout.k_codes(t % kPageTokens));
      uint8_t* params = page + (is_v ? layout.v_params(t % kPageTokens) : layout.k_params(t % kPageTokens));
      float* x = &values[size_t(t) * d];
      const KvParams p = KvParamsFor(layout.format, *std::min_element(x, x + d), *std::max_element(x, x + d));
      std::memcpy(params, &p, layout.param_bytes());
      for (int i = 0; i < d; ++i) {
        if (layout.format == KvFormat::kF32) {
          std::memcpy(codes + 4 * i, &x[i], 4);
        } else if (layout.format == KvFormat::kBF16) {
          const bf16 b = ToBf16(x[i]);
          std::memcpy(codes + 2 * i, &b, 2);
          x[i] = ToFloat(b);
        } else {
          const uint8_t code = KvEncode(layout.format, x[i], p, KvInverseScale(p));
          x[i] = KvDecode(layout.format, code, p);
          if (layout.format == KvFormat::kInt4) {
            codes[i / 2] = i % 2 == 0 ? code : codes[i / 2] | code << 4;
          } else {
            codes[i] = code;
          }
        }
      }
    }
  }
  return pool;
}

// One row's attention in f64 over weighted keys: add() each, then finish().
struct Reference {
  const float* q;
  int d;
  std::vector<double> o;
  double sum = 0;
  Reference(const float* q, int d) : q(q), d(d), o(d, 0.0) {}
  void Add(const float* k, const float* v, double count) {
    double s = 0;
    for (int i = 0; i < d; ++i) s += double{q[i]} * k[i];
    const double p = count * std::exp(s / std::sqrt(double(d)));
    sum += p;
    for (int i = 0; i < d; ++i) o[i] += p * v[i];
  }
  // Largest difference from a result, relative to the largest reference value.
  double Error(DType type, const std::vector<uint8_t>& out, size_t at) const {
    double worst = 0, largest = 0;
    for (int i = 0; i < d; ++i) {
      const double error = std::abs(Activation(type, out, at + i) - o[i] / sum);
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
      largest = std::max(largest, std::abs(o[i] / sum));
    }
    return worst / largest;
  }
};

struct PagedSetup {
  PagedKv kv;
  PagePool pool;
  std::vector<int32_t> tables;
  int rounds = 1;  // distinct sets of sequences
};
struct PagedShape {
  PageLayout page;
  int heads, sequences;
  int64_t tokens;
  int64_t shared = 0;  // pages that all sequences of a round begin with
};
PagedSetup MakePaged(Device& device, Memory& memory, const PagedShape& shape, std::mt19937& rng) {
  const auto& [layout, heads, sequences, tokens, shared] = shape;
  PagedSetup s;
  s.kv.page = layout;
  s.kv.num_heads = heads;
  const int64_t pages = CeilDiv(tokens, kPageTokens), page = s.kv.page.page_bytes();
  const int64_t set_pages = shared + sequences * (pages - shared), set_bytes = set_pages * page * heads;
  s.rounds = static_cast<int>(std::max<int64_t>(1, CeilDiv(kRotation, set_bytes)));
  const int64_t ids = set_pages * s.rounds;
  s.kv.head_stride = ids * page;
  s.kv.table_stride = pages;
  s.pool = MakePool(s.kv.page, rng);
  s.kv.base = static_cast<uint8_t*>(memory.Take(device, std::max<int64_t>(kPool * page, ids * page * heads)));
  std::vector<int32_t> order(ids);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), rng);
  for (int64_t table = 0; table < s.rounds * sequences; ++table) {
    const int64_t first = table / sequences * set_pages, own = first + table % sequences * (pages - shared);
    for (int64_t p = 0; p < pages; ++p) s.tables.push_back(order[(p < shared ? first : own) + p]);
  }
  auto* tables = static_cast<int32_t*>(memory.Take(device, s.tables.size() * sizeof(int32_t)));
  if (!memory.status.ok()) return s;
  device.Upload(s.kv.base, s.pool.bytes.data(), s.pool.bytes.size());
  Repeat(device, s.kv.base, s.pool.bytes.size(), ids * page * heads);
  device.Upload(tables, s.tables.data(), s.tables.size() * sizeof(int32_t));
  s.kv.tables = tables;
  return s;
}
// The pool page that page `p` of a table holds, in head `head`.
int PoolPage(const PagedSetup& s, int64_t table, int head, int64_t p) {
  return static_cast<int>(
      (s.tables[table * s.kv.table_stride + p] + head * (s.kv.head_stride / s.kv.page.page_bytes())) % kPool);
}

struct Batches {
  std::vector<SeqSpan> spans;  // [round][sequence]
  std::vector<int32_t> row_seq, positions;
  SeqBatch batch;  // of round 0; spans move with the round
  SeqBatch Round(int i) const {
    SeqBatch b = batch;
    b.spans += int64_t{i} * batch.num_seqs;
    b.host_spans = spans.data() + int64_t{i} * batch.num_seqs;
    return b;
  }
};
Batches MakeBatches(Device& device, Memory& memory, int sequences, int rounds, int rows, int64_t history) {
  Batches b;
  for (int i = 0; i < rounds * sequences; ++i) {
    SeqSpan span;
    span.first_row = i % sequences * rows;
    span.num_rows = rows;
    span.history = static_cast<int32_t>(history);
    span.table = i;
    span.ring = i;
    b.spans.push_back(span);
  }
  for (int i = 0; i < sequences * rows; ++i) {
    b.row_seq.push_back(i / rows);
    b.positions.push_back(static_cast<int32_t>(history + i % rows));
  }
  auto* spans = static_cast<SeqSpan*>(memory.Take(device, b.spans.size() * sizeof(SeqSpan)));
  auto* row_seq = static_cast<int32_t*>(memory.Take(device, b.row_seq.size() * 4));
  auto* positions = static_cast<int32_t*>(memory.Take(device, b.positions.size() * 4));
  if (!memory.status.ok()) return b;
  device.Upload(spans, b.spans.data(), b.spans.size() * sizeof(SeqSpan));
  device.Upload(row_seq, b.row_seq.data(), b.row_seq.size() * 4);
  device.Upload(positions, b.positions.data(), b.positions.size() * 4);
  b.batch.spans = spans;
  b.batch.row_seq = row_seq;
  b.batch.positions = positions;
  b.batch.num_seqs = sequences;
  b.batch.num_rows = sequences * rows;
  b.batch.max_rows = rows;
  b.batch.max_tokens = history + rows;
  return b;
}

}  // namespace

absl::StatusOr<BenchRow> BenchDecodeAttention(Device& device, const DecodeBench& b, const BenchRates& rates) {
  std::mt19937 rng(1);
  Memory memory;
  const DType type = ActivationType(device);
  const int64_t history = b.tokens - b.rows;
  const HeadShape shape = {b.head_dim, b.group, b.kv_heads};
  const int64_t shared_pages = std::min(b.shared, history) / kPageTokens;
  const PagedShape pages = {{b.format, b.head_dim}, b.kv_heads, b.sequences, b.tokens, shared_pages};
  PagedSetup paged = MakePaged(device, memory, pages, rng);
  const Batches batches = MakeBatches(device, memory, b.sequences, paged.rounds, b.rows, history);
  const int rows = b.sequences * b.rows;
  std::vector<float> values = Normal(rng, int64_t{rows} * shape.qkv_cols());
  const std::vector<uint8_t> bytes = ToActivations(type, values);
  const size_t out_bytes = Bytes(type, int64_t{rows} * shape.q_cols());
  void* qkv_data = memory.Take(device, bytes.size());
  void* out_data = memory.Take(device, out_bytes);
  const size_t scratch_bytes = DecodeScratchBytes(device, rows, b.group, paged.kv, b.tokens);
  auto scratch_buffer = Buffer::Allocate(device, scratch_bytes, "benchmark scratch");
  if (!scratch_buffer.ok()) return scratch_buffer.status();
  if (!memory.status.ok()) return memory.status;
  Arena scratch(std::move(*scratch_buffer));
  device.Upload(qkv_data, bytes.data(), bytes.size());
  device.Fill(out_data, 0xff, out_bytes);
  const View qkv(qkv_data, type, rows, shape.qkv_cols()), out(out_data, type, rows, shape.q_cols());
  auto call = [&](int i) {
    AttendPages(device, {out}, {qkv, shape, batches.Round(i % paged.rounds)}, paged.kv, scratch);
  };

  BenchRow row;
  row.what = "decode";
  row.shape = absl::StrCat(Name(b.format), " d", b.head_dim, " kv ", b.kv_heads, " group ", b.group, " rows ",
                           b.sequences, "x", b.rows, " tokens ", b.tokens);
  if (shared_pages > 0) absl::StrAppend(&row.shape, " shared ", shared_pages * kPageTokens);
  call(0);
  std::vector<uint8_t> got(out_bytes);
  device.Download(got.data(), out_data, out_bytes);
  for (int head : {0, b.kv_heads - 1}) {  // the last row of the last sequence sees every token
    std::vector<int64_t> count(kPool * kPageTokens);
    for (int64_t p = 0; p * kPageTokens < b.tokens; ++p) {
      const int page = PoolPage(paged, b.sequences - 1, head, p);
      for (int t = 0; t < kPageTokens && p * kPageTokens + t < b.tokens; ++t) ++count[page * kPageTokens + t];
    }
    const int q_head = head * b.group + b.group - 1;
    Reference reference(&values[int64_t{rows - 1} * shape.qkv_cols() + q_head * b.head_dim], b.head_dim);
    for (int t = 0; t < kPool * kPageTokens; ++t) {
      if (count[t] > 0) {
        reference.Add(&paged.pool.k[size_t(t) * b.head_dim], &paged.pool.v[size_t(t) * b.head_dim], count[t]);
      }
    }
    row.error =
        std::max(row.error, reference.Error(type, got, int64_t{rows - 1} * shape.q_cols() + q_head * b.head_dim));
  }
  row.verified = row.error < kAllowed;
  const int64_t shared_tokens = shared_pages * kPageTokens;
  const double read = double(b.sequences) * (b.tokens - shared_tokens) + shared_tokens;
  row.floor = std::max(b.kv_heads * read * KvTokenBytes(b.format, b.head_dim) / rates.copy,
                       4.0 * b.head_dim * b.kv_heads * b.group * rows * b.tokens / rates.attention);
  row.seconds = Time(device, std::max(Calls(row.floor), paged.rounds), true, call);
  return row;
}

absl::StatusOr<BenchRow> BenchPrefillAttention(Device& device, const PrefillBench& b, const BenchRates& rates) {
  std::mt19937 rng(2);
  Memory memory;
  const DType type = ActivationType(device);
  const HeadShape shape = {b.head_dim, b.group, b.kv_heads};
  PagedSetup paged = MakePaged(device, memory, {{b.format, b.head_dim}, b.kv_heads, 1, b.history + b.rows}, rng);
  const Batches batches = MakeBatches(device, memory, 1, paged.rounds, b.rows, b.history);
  std::vector<float> values = Normal(rng, int64_t{b.rows} * shape.qkv_cols());
  const std::vector<uint8_t> bytes = ToActivations(type, values);
  const size_t out_bytes = Bytes(type, int64_t{b.rows} * shape.q_cols());
  void* qkv_data = memory.Take(device, bytes.size());
  void* out_data = memory.Take(device, out_bytes);
  const int64_t tokens = b.history + b.rows;
  auto scratch_buffer =
      Buffer::Allocate(device, PrefillScratchBytes(device, b.rows, b.group, paged.kv, tokens), "benchmark scratch");
  if (!scratch_buffer.ok()) return scratch_buffer.status();
  if (!memory.status.ok()) return memory.status;
  Arena scratch(std::move(*scratch_buffer));
  device.Upload(qkv_data, bytes.data(), bytes.size());
  device.Fill(out_data, 0xff, out_bytes);
  const View qkv(qkv_data, type, b.rows, shape.qkv_cols()), out(out_data, type, b.rows, shape.q_cols());
  auto call = [&](int i) {
    AttendPrefill(device, {out}, {qkv, shape, batches.Round(i % paged.rounds)}, paged.kv, true, scratch);
  };
  BenchRow row;
  row.what = "prefill";
  row.shape = absl::StrCat(Name(b.format), " d", b.head_dim, " kv ", b.kv_heads, " group ", b.group, " rows ", b.rows,
                           " history ", b.history);
  call(0);
  std::vector<uint8_t> got(out_bytes);
  device.Download(got.data(), out_data, out_bytes);
  for (int r : {0, b.rows / 2, b.rows - 1}) {
    const int head = r == 0 ? 0 : b.kv_heads - 1, q_head = head * b.group;
    Reference reference(&values[int64_t{r} * shape.qkv_cols() + q_head * b.head_dim], b.head_dim);
    std::vector<int64_t> count(kPool * kPageTokens);
    for (int64_t j = 0; j < b.history; ++j) {
      ++count[PoolPage(paged, 0, head, j / kPageTokens) * kPageTokens + j % kPageTokens];
    }
    for (int t = 0; t < kPool * kPageTokens; ++t) {
      if (count[t] > 0) {
        reference.Add(&paged.pool.k[size_t(t) * b.head_dim], &paged.pool.v[size_t(t) * b.head_dim], count[t]);
      }
    }
    for (int j = 0; j <= r; ++j) {
      const float* k = &values[int64_t{j} * shape.qkv_cols() + shape.q_cols() + head * b.head_dim];
      reference.Add(k, k + shape.kv_cols(), 1);
    }
    row.error = std::max(row.error, reference.Error(type, got, int64_t{r} * shape.q_cols() + q_head * b.head_dim));
  }
  row.verified = row.error < kAllowed;
  const double pairs = double(b.rows) * b.history + double(b.rows) * (b.rows + 1) / 2;
  row.floor = 4.0 * b.head_dim * b.kv_heads * b.group * pairs / rates.attention;
  row.seconds = Time(device, 2, false, call);
  return row;
}

absl::StatusOr<BenchRow> BenchStreamingAttention(Device& device, const StreamingBench& b, const BenchRates& rates) {
  std::mt19937 rng(3);
  Memory memory;
  const DType type = ActivationType(device);
  const HeadShape shape = {b.head_dim, b.group, b.kv_heads};
  RingKv kv;
  kv.format = type == DType::kBF16 ? KvFormat::kBF16 : KvFormat::kF32;
  kv.head_dim = b.head_dim;
  kv.num_heads = b.kv_heads;
  kv.sink = b.sink;
  kv.recent = b.recent;
  kv.ring_stride = kv.num_heads * kv.ring_bytes();
  const int rounds = static_cast<int>(std::max<int64_t>(1, kRotation / kv.ring_stride));
  std::vector<float> ring = Normal(rng, int64_t{b.kv_heads} * 2 * kv.slots() * b.head_dim);
  const std::vector<uint8_t> ring_bytes = ToActivations(type, ring);
  kv.base = static_cast<uint8_t*>(memory.Take(device, rounds * kv.ring_stride));
  const Batches batches = MakeBatches(device, memory, 1, rounds, b.rows, b.history);
  std::vector<float> values = Normal(rng, int64_t{b.rows} * shape.qkv_cols());
  const std::vector<uint8_t> bytes = ToActivations(type, values);
  const size_t out_bytes = Bytes(type, int64_t{b.rows} * shape.q_cols());
  void* qkv_data = memory.Take(device, bytes.size());
  void* out_data = memory.Take(device, out_bytes);
  auto scratch_buffer = Buffer::Allocate(
      device, std::max<size_t>(256, StreamingScratchBytes(device, b.rows, b.group, kv)), "benchmark scratch");
  if (!scratch_buffer.ok()) return scratch_buffer.status();
  if (!memory.status.ok()) return memory.status;
  Arena scratch(std::move(*scratch_buffer));
  device.Upload(kv.base, ring_bytes.data(), ring_bytes.size());
  Repeat(device, kv.base, kv.ring_stride, rounds * kv.ring_stride);
  device.Upload(qkv_data, bytes.data(), bytes.size());
  device.Fill(out_data, 0xff, out_bytes);
  const View qkv(qkv_data, type, b.rows, shape.qkv_cols()), out(out_data, type, b.rows, shape.q_cols());
  auto call = [&](int i) { AttendStreaming(device, {out}, {qkv, shape, batches.Round(i % rounds)}, kv, scratch); };
  BenchRow row;
  row.what = "streaming";
  row.shape = absl::StrCat("d", b.head_dim, " kv ", b.kv_heads, " group ", b.group, " rows ", b.rows, " sinks ", b.sink,
                           " recent ", b.recent);
  call(0);
  std::vector<uint8_t> got(out_bytes);
  device.Download(got.data(), out_data, out_bytes);
  double seen = 0;
  for (int r = 0; r < b.rows; ++r) {
    const int64_t p = b.history + r;
    const bool check = r == 0 || r == b.rows / 2 || r == b.rows - 1;
    seen += double(std::min<int64_t>(b.sink + b.recent + 1, p + 1));
    if (!check) continue;
    const int head = b.kv_heads - 1, q_head = head * b.group;
    Reference reference(&values[int64_t{r} * shape.qkv_cols() + q_head * b.head_dim], b.head_dim);
    for (int64_t j = 0; j <= p; ++j) {
      if (j >= b.sink && p - j > b.recent) {
        j = std::max<int64_t>(j, p - b.recent - 1);
        continue;
      }
      if (j >= b.history) {
        const float* k = &values[(j - b.history) * shape.qkv_cols() + shape.q_cols() + head * b.head_dim];
        reference.Add(k, k + shape.kv_cols(), 1);
      } else {
        const float* k = &ring[(int64_t{head} * 2 * kv.slots() + kv.slot_of(j)) * b.head_dim];
        reference.Add(k, k + int64_t{kv.slots()} * b.head_dim, 1);
      }
    }
    row.error = std::max(row.error, reference.Error(type, got, int64_t{r} * shape.q_cols() + q_head * b.head_dim));
  }
  row.verified = row.error < kAllowed;
  const double bytes_read = double(b.kv_heads) * kv.ring_bytes();
  row.floor = std::max(bytes_read / rates.copy, 4.0 * b.head_dim * b.kv_heads * b.group * seen / rates.attention);
  row.seconds = Time(device, std::min(rounds, 64), true, call);
  return row;
}

}  // namespace duo
