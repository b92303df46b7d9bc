// Reading and writing of sessions beside the steps (engine.h, kv_io.h).
#include <algorithm>

#include "kernels/base/bound_pool.h"
#include "runtime/engine/engine.h"
#include "runtime/engine/engine_state.h"

namespace duo {
namespace {

constexpr int kMostIoThreads = 4;
constexpr double kAskSeconds = 0.001;  // how often ranks are asked whether their disks are done

}  // namespace

void Engine::State::BeginIo(KvIoPlan plan) {
  DUO_CHECK(io == nullptr);
  device->BindThread();
  io = KvIoRun::Begin(std::move(plan), options.files != nullptr ? *options.files : RealFiles(), *device, *comm, shard,
                      worker->cache());
}

void Engine::State::WorkInBackground() {
  if (disk == nullptr) {
    io_pool = std::make_unique<ThreadPool>(std::clamp(device->pool().threads(), 1, kMostIoThreads));
    BindThreads(*io_pool, *device);
    disk = std::make_unique<DiskThread>(true);
    disk->Tell(tell_io);
  }
  disk->Run([this, run = io.get()] { run->Work(*io_pool); });
}

std::optional<absl::StatusOr<KvIoResult>> Engine::State::EndIo(bool keep) {
  DUO_CHECK(io != nullptr);
  device->BindThread();
  if (comm->size() > 1) {
    const int32_t mine = IoWorks() ? 1 : 0;
    std::vector<int32_t> working(comm->size());
    comm->AllGatherHost(working.data(), &mine, sizeof mine);
    if (std::find(working.begin(), working.end(), 1) != working.end()) return std::nullopt;
  }
  const std::unique_ptr<KvIoRun> run = std::move(io);
  return keep ? run->End() : absl::CancelledError("nobody waits for it any more");
}

absl::StatusOr<KvIoResult> Engine::RunIo(const KvIoPlan& plan) {
  state_->Send(Command::kIo, Serialize(plan));
  state_->BeginIo(plan);
  state_->io->Work(state_->device->pool());
  return *state_->EndIo(true);
}

void Engine::BeginIo(const KvIoPlan& plan) {
  state_->Send(Command::kBeginIo, Serialize(plan));
  state_->BeginIo(plan);
  state_->WorkInBackground();
}

std::optional<absl::StatusOr<KvIoResult>> Engine::EndIo(bool keep) {
  State& s = *state_;
  if (s.IoWorks()) return std::nullopt;
  if (s.comm->size() > 1) {
    if (SecondsSince(s.io_asked) < kAskSeconds) return std::nullopt;
    s.io_asked = Clock::now();
    s.Send(Command::kEndIo, std::string(keep ? kKeepIo : kDropIo));
  }
  return s.EndIo(keep);
}

bool Engine::io_under_way() const { return state_->io != nullptr; }
bool Engine::io_waits() const { return state_->IoWorks(); }

void Engine::TellIo(std::function<void()> tell) {
  state_->tell_io = std::move(tell);
  if (state_->disk != nullptr) state_->disk->Tell(state_->tell_io);
}

}  // namespace duo
