// Engine::State: what an engine owns on one rank, and how it comes to be. For engine.cc, engine_io.cc,
// engine_setup.cc and probe.cc alone.
//
// Setting up goes from what costs nothing to know to what takes memory, the same on every rank: Prepare (config, heads,
// partition, formats, sizes; Decide and Size are its parts), then Load (weights, cache, workspace; on rank 0 a
// scheduler). Every error is agreed on, so that all ranks end alike.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "kernels/base/seconds.h"
#include "kernels/base/thread_pool.h"
#include "parallel/shard.h"
#include "runtime/engine/choose_key_means.h"
#include "runtime/engine/draft_model.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/probe.h"
#include "runtime/files/disk_thread.h"
#include "runtime/model/worker.h"
#include "runtime/scheduler/scheduler.h"

namespace duo {

// What follows Command::kEndIo.
inline constexpr std::string_view kKeepIo = "keep", kDropIo = "drop";

struct Engine::State {
  ProbeOptions options;
  ModelConfig config;
  HeadPlan heads;
  std::vector<ProvenanceHead> provenance;  // empty: no answer may ask where it looked
  ChosenKeyShift key_shift;                // empty: keys stay as they are
  DualChunk chunks;                        // length 0: no session is so long that it is read by chunks
  Partition partition;
  RankShard shard;
  std::optional<SharedRows> shared_rows;                // where long chunks are shared out by rows
  std::unique_ptr<Communicator> among_peers, in_group;  // of these, until the model has them
  KvFormat kv = KvFormat::kBF16;
  std::vector<std::string> notes;
  MemoryPlan memory;
  StepLimits limits;
  Device* device = nullptr;
  Communicator* comm = nullptr;
  std::unique_ptr<Worker> worker;
  std::unique_ptr<DraftModel> draft_model;  // rank 0, where there is one; the scheduler asks it
  std::unique_ptr<Scheduler> scheduler;     // rank 0

  std::optional<SafetensorsModel> files;  // open while loading
  WeightFormats formats;
  std::vector<FormatShare> format_shares;      // of them
  std::optional<WeightFormats> draft_formats;  // of a copy that guesses
  int cut_unit = 128;                          // ranks cut MLPs at multiples of it; at most 128
  KvSizes sizes;
  int chunk = 0;

  absl::Status Start(const ProbeOptions& options, Device& device, Communicator& comm);
  absl::Status Prepare();
  absl::Status Load();
  absl::Status Decide();
  absl::Status DecideFormats();
  absl::Status CheckSparsity();
  absl::Status DecideChunks();
  absl::Status DecideDrafts();
  absl::Status PrepareDrafts();
  bool ChecksAreExact() const;
  absl::Status LoadDraftWeights(Model& model);
  absl::Status LoadDraftModel();
  // Whom long chunks may be shared out over by rows; nobody where they go by heads. shard_of: of any rank.
  void FindRowPeers(absl::FunctionRef<RankShard(int rank)> shard_of);
  absl::Status LoadPeerShards(Model& model);
  // Size, and before it whether long chunks are shared out by rows, where that is left to the engine.
  absl::StatusOr<KvSizes> SizeWithPeers();
  // Of a load behind so many bytes of others.
  std::function<void(int64_t, int64_t)> Progress(int64_t before) const;
  absl::Status DecideKeyShift();
  void NoteSplitHeads(const std::string& flag);
  absl::StatusOr<KvSizes> Size(const WeightFormats& formats, const StepLimits& limits);
  void MakeScheduler(const KvSizes& sizes, int chunk);
  // Reading and writing of sessions, on every rank; at most one plan at a time.
  std::unique_ptr<KvIoRun> io;
  std::unique_ptr<ThreadPool> io_pool;
  std::unique_ptr<DiskThread> disk;  // after io, which it works on; made when first needed
  std::function<void()> tell_io;
  Clock::time_point io_asked;

  void BeginIo(KvIoPlan plan);
  void WorkInBackground();
  bool IoWorks() const { return disk != nullptr && !disk->idle(); }
  // Collective. Nothing: a rank's disk is still at work.
  std::optional<absl::StatusOr<KvIoResult>> EndIo(bool keep);

  // Rank 0: page and ring copies that wait for the next step are done now.
  void Settle() {
    StepPlan plan;
    if (!scheduler->TakeCacheUpdates(&plan)) return;
    if (comm->size() > 1) Send(Command::kStep, Serialize(plan));
    worker->Execute(plan);
  }
  void Send(Command command, const std::string& payload) {
    if (comm->size() == 1) return;
    std::vector<uint8_t> message(1 + payload.size(), static_cast<uint8_t>(command));
    std::copy(payload.begin(), payload.end(), message.begin() + 1);
    SendMessage(*comm, message);
  }
};

}  // namespace duo
