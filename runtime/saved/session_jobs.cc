// What a save or a restore has at the disk (session_jobs.h).
#include "runtime/saved/session_jobs.h"

#include <thread>
#include <utility>

#include "runtime/files/disk_thread.h"
#include "runtime/saved/session_store.h"

namespace duo {

JobPart::JobPart(SessionStore& store) : engine_(*store.engine_), disk_(*store.disk_) {}

JobPart::~JobPart() {
  while (!Ended(false)) std::this_thread::yield();
}

void JobPart::AtDisk(std::function<absl::Status()> work) {
  kind_ = Kind::kDisk;
  working_ = true;
  disk_.Run([this, work = std::move(work)] {
    status_ = work();
    working_ = false;
  });
}

void JobPart::OnRanks(KvIoPlan plan) {
  plan_ = std::move(plan);
  kind_ = Kind::kNext;
  Begin();
}

void JobPart::Begin() {
  if (!disk_.threaded()) {
    absl::StatusOr<KvIoResult> result = engine_.RunIo(plan_);
    status_ = result.status();
    if (result.ok()) result_ = *std::move(result);
    kind_ = Kind::kNone;
  } else if (!engine_.io_under_way()) {
    engine_.BeginIo(plan_);
    kind_ = Kind::kRanks;
  }
}

bool JobPart::Ended(bool keep) {
  if (kind_ == Kind::kNext) {
    if (!keep) kind_ = Kind::kNone;
    if (keep) Begin();
  }
  if (kind_ == Kind::kRanks) {
    std::optional<absl::StatusOr<KvIoResult>> result = engine_.EndIo(keep);
    if (!result.has_value()) return false;
    status_ = result->status();
    if (result->ok()) result_ = **std::move(result);
    kind_ = Kind::kNone;
  }
  if (kind_ == Kind::kDisk && !working_) kind_ = Kind::kNone;
  return kind_ == Kind::kNone;
}

bool JobPart::waits() const {
  if (kind_ == Kind::kDisk) return working_;
  if (kind_ == Kind::kNext) return engine_.io_under_way();
  return kind_ == Kind::kRanks && engine_.io_waits();
}

}  // namespace duo
