#include "tests/walk/sessions_walk.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "absl/strings/str_join.h"
#include "kernels/base/splitmix64.h"

namespace duo {
namespace {

constexpr char kDir[] = "/saved";
constexpr int kMostOpen = 5, kMostDocs = 8;
constexpr size_t kTraced = 60;

}  // namespace

SessionsWalk::SessionsWalk(const WalkOptions& options, const Ground& ground, uint64_t seed, WalkCounts* counts)
    : options_(options),
      engine_(ground.engine),
      disk_(ground.disk),
      files_(ground.disk.Files()),
      model_dir_(ground.model_dir),
      random_(SplitMix64(seed)),
      counts_(counts),
      log_(ground.log) {
  disk_.state = FaultDisk().state;
  Open();
}

SessionsWalk::~SessionsWalk() {
  running_.clear();
  for (const SessionInfo& session : engine_.List()) engine_.CloseSession(session.id).IgnoreError();
}

uint64_t SessionsWalk::Draw(uint64_t below) {
  random_ = SplitMix64(random_ + 1);
  return random_ % below;
}

SessionsWalk::Tokens SessionsWalk::Text(int64_t count) {
  Tokens tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(Draw(engine_.config().vocab));
  return tokens;
}

std::string SessionsWalk::Pick(bool open) {
  std::vector<std::string> ids;
  for (const auto& [id, doc] : docs_) {
    if (doc.open == open) ids.push_back(id);
  }
  return ids.empty() ? "" : ids[Draw(ids.size())];
}

void SessionsWalk::Open() {
  StoreOptions so;
  so.files = &files_;
  so.look_seconds = 0;
  so.threaded = options_.threaded;
  auto store = SessionStore::Open(kDir, model_dir_, engine_, std::move(so));
  ASSERT_TRUE(store.ok()) << store.status();
  store_ = std::move(*store);
  SessionsOptions options;
  options.max_session_tokens = options_.most_tokens;
  options.checkpoint_tokens = options_.checkpoint;
  options.job_seconds = 0;
  options.watch.on_place = [this](Place from, Place to) { ++counts_->places[{from, to}]; };
  options.watch.on_append = [this](AppendPhase from, AppendPhase to) { ++counts_->phases[{from, to}]; };
  sessions_ = std::make_unique<Sessions>(options, engine_, store_.get(), log_);
  sessions_->Recover();
}

void SessionsWalk::Run() {
  for (int64_t steps = 0;; ++steps) {
    bool more = sessions_->Tick();
    more = engine_.Step() || more;
    if (!more && sessions_->Quiet()) break;
    ASSERT_LT(steps, 100000) << "it does not come to an end";
    if (more) continue;
    store_->WaitForDisk();
    std::this_thread::sleep_for(std::chrono::microseconds(100));  // the engine's own disk thread
  }
}

void SessionsWalk::SomeSteps() {
  for (uint64_t steps = Draw(6); steps > 0; --steps) {
    if (Chance(60)) sessions_->Tick();
    if (Chance(80)) engine_.Step();
  }
}

CallPtr SessionsWalk::Begin() {
  ++counts_->calls;
  running_.push_back(std::make_shared<Call>());
  return running_.back();
}

void SessionsWalk::End(const CallPtr& call, const absl::Status& status) {
  std::erase(running_, call);
  const bool cancelled = cancelled_.erase(call.get()) > 0;
  if (RefusedForState(status)) ++counts_->refused;
  const bool expected = status.ok() || RefusedForState(status) || absl::IsResourceExhausted(status) ||
                        absl::IsAborted(status) || absl::IsInvalidArgument(status) ||
                        (absl::IsCancelled(status) && cancelled) ||
                        (absl::IsCancelled(status) && status.message().find("was closed") != std::string::npos);
  EXPECT_TRUE(expected || trouble_) << status;
  if (!status.ok()) trace_.push_back(absl::StrCat("  ", status.message()));
}

void SessionsWalk::OneCall() {
  const std::string id = Pick(true), saved = Pick(false);
  int open = 0;
  for (const auto& [name, doc] : docs_) open += doc.open;
  if (id.empty() || (open < kMostOpen && docs_.size() < kMostDocs && Chance(10))) return Create();
  if (!saved.empty() && (Chance(8) || docs_.size() >= kMostDocs)) {
    return Chance(70) && open < kMostOpen ? Restore(saved) : Close(saved, true);
  }
  const Doc& doc = docs_[id];
  const uint64_t what = Draw(100);
  if (doc.stopped.has_value()) {
    if (what < 40) return GoOn(id);
    if (what < 60) return Rewind(id);
    if (what < 90) return;  // it may be moved out as it is
  }
  const bool full = static_cast<int64_t>(doc.now.size()) + 60 > options_.most_tokens;
  if (full && what < 50) return Rewind(id);
  if (what < 35) return Append(id);
  if (what < 50) return Ask(id, false);
  if (what < 58) return Ask(id, true);
  if (what < 63 && open < kMostOpen) return Fork(id);
  if (what < 71) return Rewind(id);
  if (what < 84) return Save(id);
  if (what < 88) return Upload(id);
  if (what < 95) return Close(id, Chance(25));
  ++counts_->calls;
  EXPECT_TRUE(sessions_->Get(id).ok()) << id;
}

void SessionsWalk::Go(int calls) {
  const int64_t end = counts_->calls + calls;
  while (counts_->calls < end) {
    // A few calls meet each other; then all of it must be as it should.
    for (uint64_t n = 1 + Draw(6); n > 0; --n) {
      OneCall();
      if (Chance(25)) CancelOne();
      SomeSteps();
      if (Chance(4)) Fault();
    }
    if (Chance(6)) {
      Crash();
    } else {
      if (Chance(30)) MoveOut();
      Compare();
    }
    if (testing::Test::HasFailure()) {
      ADD_FAILURE() << "after call " << counts_->calls << ":\n  " << absl::StrJoin(trace_, "\n  ");
      return;
    }
    if (trace_.size() > kTraced) trace_.erase(trace_.begin(), trace_.end() - kTraced);
  }
}

}  // namespace duo
