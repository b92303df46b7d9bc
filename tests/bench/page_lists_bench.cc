// Times sparse prefill attention (kernels/page_lists.h) beside dense: of a chunk behind a history of random keys, the
// pooling of keys, the choice of pages, the visit of lists, and the rate of each visited block beside the dense
// kernel's. Prints JSON. page_lists_bench HEADS GROUP HEAD_DIM KV CHUNK HISTORY.. (a GPU where there is one)
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "kernels/base/seconds.h"
#include "kernels/base/splitmix64.h"
#include "kernels/page_audit.h"
#include "kernels/random_fill.h"

namespace duo {
namespace {

struct Shape {
  int heads = 4, group = 4, head_dim = 128;
  KvFormat format = KvFormat::kBF16;
  int chunk = 16384;
};

Buffer Take(Device& device, size_t bytes) {
  absl::StatusOr<Buffer> buffer = Buffer::Allocate(device, bytes, "the benchmark");
  DUO_CHECK(buffer.ok());
  return *std::move(buffer);
}

// Seconds of one call, the best of some.
template <typename Work>
double Time(Device& device, const Work& work) {
  double best = 1e9;
  for (int i = 0; i < 4; ++i) {
    device.Synchronize();
    const Clock::time_point start = Clock::now();
    work();
    device.Synchronize();
    if (i > 0) best = std::min(best, SecondsSince(start));
  }
  return best;
}

void Run(Device& device, const Shape& s, int64_t history, bool last) {
  const int64_t tokens = history + s.chunk, pages = tokens / kPageTokens;
  const DType type = device.is_cuda() ? DType::kBF16 : DType::kF32;
  PagedKv kv;
  kv.page = {s.format, s.head_dim};
  kv.num_heads = s.heads;
  kv.head_stride = pages * kv.page.page_bytes();
  kv.table_stride = pages;
  Buffer memory = Take(device, kv.head_stride * s.heads), table = Take(device, 4 * pages);
  kv.base = memory.as<uint8_t>();
  FillPages(device, kv, 0, pages, 1);
  std::vector<int32_t> ids(pages);
  for (int64_t i = 0; i < pages; ++i) ids[i] = static_cast<int32_t>(i);
  for (int64_t i = pages - 1; i > 0; --i) std::swap(ids[i], ids[SplitMix64(i) % (i + 1)]);
  device.Upload(table.data(), ids.data(), 4 * pages);
  kv.tables = table.as<int32_t>();
  HeadShape shape{s.head_dim, s.group, s.heads};
  const int64_t cols = shape.qkv_cols();
  Buffer qkv_memory = Take(device, Bytes(type, s.chunk * cols)),
         out_memory = Take(device, Bytes(type, s.chunk * shape.q_cols()));
  const View qkv(qkv_memory.data(), type, s.chunk, cols), out(out_memory.data(), type, s.chunk, shape.q_cols());
  FillRun run = {static_cast<uint8_t*>(qkv.data), s.chunk * cols, 0, 1, FillKindOf(type), 1.0f, {}};
  FillElements(device, run, 2);
  SeqSpan span;
  span.num_rows = s.chunk;
  span.history = static_cast<int32_t>(history);
  StepRows rows{qkv, shape, {}};
  rows.batch.host_spans = &span;
  rows.batch.spans = device.is_cuda() ? nullptr : &span;
  rows.batch.num_seqs = 1;
  rows.batch.num_rows = rows.batch.max_rows = s.chunk;
  rows.batch.max_tokens = tokens;
  Arena arena(Take(device, PrefillScratchBytes(device, s.chunk, s.group, kv, tokens) +
                               PooledKeysBytes(device, kv, tokens) +
                               2 * SelectPagesBytes(device, s.chunk, s.group, kv, tokens) +
                               AttendPageListsScratchBytes(device, s.chunk, s.group, kv, tokens)));
  const double flop = 4.0 * s.head_dim * s.heads * s.group;
  const double dense_pairs = static_cast<double>(s.chunk) * (static_cast<double>(history) + 0.5 * s.chunk);
  const double dense = Time(device, [&] { AttendPrefill(device, {out}, rows, kv, true, arena); });
  std::printf("  {\"history\": %lld, \"dense_seconds\": %.6f, \"dense_tflops\": %.1f, \"sparse\": [\n",
              (long long)history, dense, flop * dense_pairs / dense / 1e12);
  const std::vector<int> densities = {150, 250, 500};
  for (const int density : densities) {
    const std::vector<int32_t> wanted(s.heads, density);
    PooledKeys pooled;
    PageLists lists;
    arena.Rewind(0);
    const double pooling = Time(device, [&] {
      arena.Rewind(0);
      PoolKeys(device, &pooled, rows, kv, arena);
    });
    const size_t mark = arena.used();
    const double choosing = Time(device, [&] {
      arena.Rewind(mark);
      SelectPages(device, &lists, rows, kv, pooled, {}, wanted.data(), arena);
    });
    double visited = 0;
    for (int b = 0; b < lists.blocks; ++b) visited += 1 + ListRule().Length(density, lists.first_block + b);
    const double attending = Time(device, [&] { AttendPageLists(device, {out}, rows, kv, lists, arena); });
    // A visited block is 128 rows by 128 keys, the diagonal one included: what a kernel has to compute.
    const double sparse_rate = flop * visited * kBlockTokens * kPageTokens / attending,
                 dense_rate = flop * (dense_pairs + 0.5 * s.chunk * kPageTokens) / dense;
    std::printf(
        "    {\"density\": %.3f, \"pool_seconds\": %.6f, \"choose_seconds\": %.6f, \"attend_seconds\": %.6f, "
        "\"tflops_of_visited\": %.1f, \"of_dense_rate\": %.3f, \"selection_share\": %.4f}%s\n",
        density / 1000.0, pooling, choosing, attending, sparse_rate / 1e12, sparse_rate / dense_rate,
        (pooling + choosing) / (pooling + choosing + attending), density == densities.back() ? "" : ",");
    arena.Rewind(0);
  }
  std::printf("  ]}%s\n", last ? "" : ",");
}

}  // namespace
}  // namespace duo

int main(int argc, char** argv) {
  using namespace duo;
  if (argc < 7) {
    std::fprintf(stderr, "usage: page_lists_bench HEADS GROUP HEAD_DIM KV CHUNK HISTORY..\n");
    return 2;
  }
  Shape s;
  s.heads = std::atoi(argv[1]);
  s.group = std::atoi(argv[2]);
  s.head_dim = std::atoi(argv[3]);
  for (KvFormat f : kKvFormats) {
    if (std::string(argv[4]) == Name(f)) s.format = f;
  }
  s.chunk = std::atoi(argv[5]);
  std::unique_ptr<Device> device = Device::CudaDeviceCount() > 0 ? *Device::Cuda(0, 4) : Device::Cpu(2);
  std::printf(
      "{\"bench\": \"page_lists\", \"device\": \"%s\", \"heads\": %d, \"group\": %d, \"head_dim\": %d, \"kv\": \"%s\", "
      "\"chunk\": %d, \"runs\": [\n",
      device->info().name.c_str(), s.heads, s.group, s.head_dim, Name(s.format), s.chunk);
  for (int i = 6; i < argc; ++i) Run(*device, s, std::atoll(argv[i]), i + 1 == argc);
  std::printf("]}\n");
  return 0;
}
