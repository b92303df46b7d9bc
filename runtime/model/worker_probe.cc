#include "runtime/model/worker_probe.h"

#include <cmath>
#include <memory>
#include <vector>

#include "kernels/attention_plain.h"
#include "kernels/random_fill.h"

namespace duo {
namespace {

// Null where no layer has a whole head.
const LayerKv* LayerWithMostWholeHeads(const KvCache& cache) {
  const LayerKv* most = nullptr;
  for (const LayerKv& layer : cache.layers()) {
    if (layer.paged.empty() || layer.paged.back().split) continue;
    if (most == nullptr || layer.paged.back().num_heads > most->paged.back().num_heads) most = &layer;
  }
  return most;
}

// The last of `tokens` tokens, attending to all of them.
StepPlan OneRow(int32_t table, int64_t tokens) {
  StepPlan plan;
  plan.kind = StepKind::kRows;
  plan.tokens = {0};
  plan.positions = {static_cast<int32_t>(tokens - 1)};
  plan.row_seq = {0};
  SeqSpan span;
  span.num_rows = 1;
  span.history = static_cast<int32_t>(tokens - 1);
  span.table = table;
  span.keep_pages = 1;
  plan.spans = {span};
  return plan;
}

// One dense row of f32 or bf16.
void DownloadFloats(Device& device, const View& row, float* out) {
  std::vector<uint8_t> bytes(Bytes(row.dtype, row.cols));
  device.Download(bytes.data(), row.data, bytes.size());
  for (int64_t i = 0; i < row.cols; ++i) {
    out[i] = row.dtype == DType::kBF16 ? ToFloat(reinterpret_cast<const bf16*>(bytes.data())[i])
                                       : reinterpret_cast<const float*>(bytes.data())[i];
  }
}

double RelativeDifference(const std::vector<float>& found, const std::vector<float>& expected) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += (found[i] - expected[i]) * (found[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}

}  // namespace

void WorkerProbe::Watch(Worker& worker, RouteWatch watch) {
  std::unique_ptr<RouteTape>& tape = worker.model_.routes();
  switch (watch) {
    case RouteWatch::kOff:
      tape.reset();
      break;
    case RouteWatch::kRecord:
      tape = std::make_unique<RouteTape>();
      break;
    case RouteWatch::kReplay:
      DUO_CHECK(tape != nullptr);
      tape->Replay();
      break;
  }
}

void WorkerProbe::FillCache(Worker& worker) {
  Device& device = *worker.device_;
  const KvCache& cache = worker.cache_;
  uint64_t seed = worker.comm_->rank();
  for (const LayerKv& layer : cache.layers()) {
    for (const PagedKv& kv : layer.paged) {
      FillPages(device, kv, 0, kv.split ? cache.sizes().split_pages : cache.sizes().pages, ++seed << 32);
    }
    for (int ring = 0; layer.ring.num_heads > 0 && ring < cache.sizes().rings; ++ring) {
      FillRing(device, layer.ring, ring, ++seed << 32);
    }
  }
  device.Synchronize();
}

double WorkerProbe::CompareWithPlainAttention(Worker& worker, int32_t table, int64_t tokens) {
  Device& device = *worker.device_;
  Arena& arena = worker.arena_;
  device.BindThread();
  const LayerKv* layer = LayerWithMostWholeHeads(worker.cache_);
  if (layer == nullptr) return 0;
  const PagedKv& kv = layer->paged.back();
  const HeadShape& shape = layer->shape;
  const DType type = ActivationType(device);
  const StepInput input = worker.Upload(OneRow(table, tokens));

  arena.Rewind(0);
  const View qkv = arena.Matrix(type, 1, shape.qkv_cols()), out = arena.Matrix(type, 1, shape.q_cols());
  const int64_t count = int64_t{kv.num_heads} * shape.group * shape.head_dim;
  auto* plain = static_cast<float*>(arena.Take(sizeof(float) * count));
  FillRun random;
  random.data = qkv.as<uint8_t>();
  random.count = qkv.cols;
  random.kind = type == DType::kBF16 ? FillKind::kBF16 : FillKind::kF32;
  random.amplitude = 4;  // scores that differ: some keys count much more than others
  FillElements(device, random, 1);
  AttendPages(device, {out}, {qkv, shape, input.batch}, kv, arena);
  AttendPlain(device, plain, qkv, shape, kv, {table, tokens});
  std::vector<float> expected(count), found(count);
  device.Download(expected.data(), plain, sizeof(float) * count);
  DownloadFloats(device, out.Cols(int64_t{kv.first_head} * shape.group * shape.head_dim, count), found.data());
  return RelativeDifference(found, expected);
}

}  // namespace duo
