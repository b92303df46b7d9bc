// Worker: one rank's executor of step plans. A worker owns this rank's model, KV cache and workspace, and knows nothing
// of requests. Every rank executes the same plans in the same order.
//
// On CUDA a step in which every sequence has one row is recorded as a graph, one for each batch bucket (kBuckets); the
// batch is padded to the bucket with rows that touch nothing. So is, for each number of rows, a step of one answer that
// checks drafts. Where the communicator cannot be recorded, and for every
// other step, the same code runs directly. Not thread-safe.
#pragma once

#include <map>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/model/model.h"
#include "runtime/model/step_plan.h"

namespace duo {

// The first byte of every message from rank 0 to the others.
enum class Command : uint8_t {
  kStep = 1,     // a StepPlan follows
  kEnd = 2,      // the follower's loop ends
  kFill = 3,     // the whole cache becomes random (benchmarks)
  kIo = 4,       // a KvIoPlan follows, carried out at once
  kBeginIo = 5,  // likewise, carried out beside the steps that follow
  kEndIo = 6,    // whether to keep what it read follows
  kRecord = 7,   // the graphs of all batches are recorded
  kRoutes = 8,   // a RouteWatch follows (benchmarks)
};

class Worker {
 public:
  static constexpr int kBuckets[] = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256};
  static constexpr int kMaxBatch = 256;  // sequences of a rows step

  static int Bucket(int batch);  // the smallest that holds so many

  // sizes.tables and sizes.rings already count the one of each that padding rows use.
  static absl::StatusOr<std::unique_ptr<Worker>> Create(Model model, KvCache cache, Arena workspace,
                                                        const StepLimits& limits, Device& device, Communicator& comm);

  StepResult Execute(const StepPlan& plan);
  // Records the graphs of all batches that limits.batch allows, so that no answer waits for it later. Nothing where
  // steps are not recorded.
  void RecordGraphs();

  KvCache& cache() { return cache_; }
  Model& model() { return model_; }

 private:
  friend struct WorkerProbe;  // worker_probe.h
  Worker(Model model, KvCache cache, Arena workspace)
      : model_(std::move(model)), cache_(std::move(cache)), arena_(std::move(workspace)) {}
  // Do sequences of the batch begin with the same pages? It has host_spans.
  bool MayShare(const SeqBatch& batch) const;
  // The plan's arrays in device memory at fixed places; one upload.
  StepInput Upload(const StepPlan& plan);
  void RunModel(const StepInput& input);
  SparseAudits GatherAudits(const StepPlan& plan);
  bool Records() const { return device_->is_cuda() && comm_->capturable() && model_.routes() == nullptr; }
  // A step of one row a sequence, from its graph, which is recorded where it is not there yet.
  void RunRecorded(StepInput input);
  void RecordBatch(StepInput input);
  std::vector<float> GatherLogits(int rows);

  Model model_;
  KvCache cache_;
  Arena arena_;
  StepLimits limits_;
  Buffer input_;    // tokens, positions, row_seq, spans, sample rows and parameters of a step
  Buffer samples_;  // device ShardSample [samples]
  std::vector<uint8_t> staging_;
  std::vector<SeqSpan> host_spans_;
  std::vector<int32_t> row_seq_;
  SparseStep sparse_;
  std::map<std::pair<int32_t, int32_t>, int32_t> first_pages_;  // of each (split, table) that was ever written
  const SampleParams* device_params_ = nullptr;
  View logits_;
  struct Graph {
    DeviceGraph graph;
    View logits;
  };
  // By sequences and rows, whether sequences may share pages, visit lists, or that of the ends, and whether it is by
  // the copy of the weights.
  std::map<std::tuple<int, int, bool, bool, bool, bool>, Graph> graphs_;
  Device* device_ = nullptr;
  Communicator* comm_ = nullptr;
};

}  // namespace duo
