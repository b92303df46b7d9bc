#include "tests/walk/sessions_walk.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/splitmix64.h"

namespace duo {
namespace {

constexpr char kDir[] = "/saved";
constexpr int kMostOpen = 5, kMostDocs = 8;
constexpr size_t kTraced = 60;

bool BeginsWith(const std::vector<int32_t>& all, const std::vector<int32_t>& part) {
  return part.size() <= all.size() && std::equal(part.begin(), part.end(), all.begin());
}

bool RefusedForState(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) || absl::IsNotFound(status) || absl::IsAlreadyExists(status);
}

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

// No fault is meant for the test's own look.
absl::StatusOr<SessionStore::Texts> SessionsWalk::OnDisk(const std::string& id) {
  disk_.FailAt(-1, 0);
  return store_->ReadTexts(id);
}

void SessionsWalk::Extend(Doc& doc, const Tokens& text) {
  doc.now.insert(doc.now.end(), text.begin(), text.end());
  doc.states.push_back(doc.now);
}

void SessionsWalk::Cut(Doc& doc, int64_t tokens) {
  doc.now.resize(tokens);
  doc.least = std::min(doc.least, tokens);
  doc.stopped.reset();
}

void SessionsWalk::Promise(Doc& doc) {
  doc.promised = true;
  doc.least = static_cast<int64_t>(doc.now.size());
  doc.states = {doc.now};
}

void SessionsWalk::ExpectLength(const std::string& id, const char* after) {
  const absl::StatusOr<SessionView> view = sessions_->Get(id);
  ASSERT_TRUE(view.ok()) << id << " after " << after << ": " << view.status();
  EXPECT_EQ(view->tokens, static_cast<int64_t>(docs_[id].now.size())) << id << " after " << after;
}

void SessionsWalk::Create() {
  const std::string id = absl::StrCat("doc", next_++);
  const bool durable = Chance(50);
  trace_.push_back(absl::StrCat("create ", id, durable ? " durable" : ""));
  ++counts_->calls;
  const absl::StatusOr<SessionView> made = sessions_->Create(
      {.id = id, .max_tokens = options_.most_tokens, .reserved_tokens = options_.most_tokens, .durable = durable});
  if (!made.ok()) {
    EXPECT_TRUE(absl::IsResourceExhausted(made.status())) << made.status();
    return;
  }
  Doc& doc = docs_[id];
  doc.open = true;
  doc.durable = durable;
  doc.states = {{}};
}

void SessionsWalk::Append(const std::string& id) {
  const Doc& doc = docs_[id];
  const int64_t room = options_.most_tokens - static_cast<int64_t>(doc.now.size());
  const Tokens text = Text(1 + Draw(std::clamp<int64_t>(room - 1, 1, 240)));
  const std::string append_id = Chance(65) ? absl::StrCat("a", next_++) : "";
  trace_.push_back(absl::StrCat("append ", text.size(), " to ", id, " as \"", append_id, "\""));
  const CallPtr call = Begin();
  const absl::StatusOr<Sessions::Opened> opened = sessions_->OpenAppend(id, append_id);
  if (!opened.ok()) return End(call, opened.status());
  AppendEvents events;
  events.on_progress = [=, this, known = false](const AppendProgress&) mutable {
    const auto found = docs_.find(id);
    if (found == docs_.end() || std::exchange(known, true)) return;
    Tokens all = found->second.now;  // checkpoints are beginnings of this
    all.insert(all.end(), text.begin(), text.end());
    found->second.states.push_back(std::move(all));
  };
  events.on_done = [=, this](const AppendDone& done) {
    End(call, done.status);
    const auto found = docs_.find(id);
    if (found == docs_.end() || !found->second.open) return;
    Doc& now = found->second;
    if (done.status.ok()) {
      Extend(now, text);
      if (now.durable) Promise(now);
      return ExpectLength(id, "an append");
    }
    if (append_id.empty()) return;         // what it read goes before anything else changes the session
    if (done.received_bytes == 0) return;  // it had not begun
    now.stopped = Doc::Stopped{append_id, static_cast<int64_t>(now.now.size()), text};
    now.states.push_back(now.now);  // it may be read on
    now.states.back().insert(now.states.back().end(), text.begin(), text.end());
    Extend(now, {text.begin(), text.begin() + done.tokens});
    ExpectLength(id, "an append that stopped");
  };
  sessions_->ReadAppend(call, {id, append_id, text, static_cast<int64_t>(4 * text.size()), false}, std::move(events));
}

void SessionsWalk::GoOn(const std::string& id) {
  const Doc::Stopped stopped = *docs_[id].stopped;
  trace_.push_back(absl::StrCat("go on with ", id, "'s ", stopped.id));
  const CallPtr call = Begin();
  const absl::StatusOr<Sessions::Opened> opened = sessions_->OpenAppend(id, stopped.id);
  if (!opened.ok()) return End(call, opened.status());
  if (opened->text != nullptr) {  // a rewind came between, and it is a new one
    sessions_->DropUpload(id, stopped.id);
    return End(call, absl::OkStatus());
  }
  AppendEvents events;
  events.on_done = [=, this](const AppendDone& done) {
    End(call, done.status);
    const auto found = docs_.find(id);
    if (found == docs_.end() || !found->second.open) return;
    Doc& doc = found->second;
    if (absl::IsAborted(done.status) || !doc.stopped.has_value() || doc.stopped->id != stopped.id) return;
    if (!done.status.ok() && done.received_bytes == 0) return;  // it had not begun
    doc.now.resize(stopped.start);
    Extend(doc, {stopped.text.begin(), stopped.text.begin() + done.tokens});
    if (done.status.ok()) {
      EXPECT_EQ(done.tokens, static_cast<int64_t>(stopped.text.size()));
      doc.stopped.reset();
      if (doc.durable) Promise(doc);
    }
    ExpectLength(id, "an append that went on");
  };
  sessions_->ReadAppend(call, {id, stopped.id, {}, 0, false}, std::move(events));
}

void SessionsWalk::Upload(const std::string& id) {
  const std::string append_id = absl::StrCat("u", next_++);
  trace_.push_back(absl::StrCat("upload to ", id, " as ", append_id));
  const CallPtr call = Begin();
  const absl::Status opened = sessions_->OpenAppend(id, append_id).status();
  End(call, opened);
  if (opened.ok() && Chance(70)) sessions_->DropUpload(id, append_id);
}

void SessionsWalk::Ask(const std::string& id, bool keep) {
  const Tokens question = Text(1 + Draw(20));
  GenerateParams params;
  params.max_new_tokens = 1 + Draw(10);
  params.keep = keep;
  trace_.push_back(absl::StrCat("ask ", id, keep ? " and keep" : "", ", ", question.size(), " tokens"));
  const CallPtr call = Begin();
  auto said = std::make_shared<Tokens>(question);
  AskEvents events;
  events.on_token = [said](int32_t token) {
    said->push_back(token);
    return true;
  };
  events.on_done = [=, this](const RequestResult& result, int64_t) {
    End(call, result.status);
    const auto found = docs_.find(id);
    if (!keep || found == docs_.end() || !found->second.open) return;
    Doc& doc = found->second;
    const absl::StatusOr<SessionView> view = sessions_->Get(id);
    const bool begun = result.status.message() != "the call was cancelled";  // before its turn
    if (!view.ok() || RefusedForState(result.status) || !begun) return;
    const int64_t more = view->tokens - static_cast<int64_t>(doc.now.size());
    ASSERT_GE(more, 0) << id << " after a kept question";
    ASSERT_LE(more, static_cast<int64_t>(said->size())) << id << " after a kept question";
    if (result.status.ok()) {
      EXPECT_EQ(more, static_cast<int64_t>(said->size())) << id << " after a kept question";
    }
    Extend(doc, {said->begin(), said->begin() + more});
  };
  sessions_->Ask(call, id, question, params, std::move(events));
}

void SessionsWalk::Fork(const std::string& id) {
  const std::string fork = absl::StrCat("doc", next_++);
  trace_.push_back(absl::StrCat("fork ", id, " as ", fork));
  const CallPtr call = Begin();
  sessions_->Fork(call, id, fork, 0, [=, this](const absl::StatusOr<SessionView>& view) {
    End(call, view.status());
    const auto parent = docs_.find(id);
    if (!view.ok() || parent == docs_.end()) return;
    // A durable session is cut before the rewind that does it is on disk and so answered.
    Tokens now = parent->second.now;
    ASSERT_LE(view->tokens, static_cast<int64_t>(now.size())) << fork;
    now.resize(view->tokens);
    Doc& doc = docs_[fork];
    doc.open = true;
    doc.now = now;
    ExpectLength(fork, "a fork");
  });
}

void SessionsWalk::Rewind(const std::string& id) {
  Doc& doc = docs_[id];
  const int64_t tokens = Draw(doc.now.size() + 1);
  trace_.push_back(absl::StrCat("rewind ", id, " to ", tokens));
  if (doc.durable) doc.least = std::min(doc.least, tokens);
  const CallPtr call = Begin();
  sessions_->Rewind(call, id, tokens, [=, this](const absl::StatusOr<SessionView>& cut) {
    End(call, cut.status());
    const auto found = docs_.find(id);
    if (found == docs_.end() || !found->second.open) return;
    Doc& now = found->second;
    const absl::StatusOr<SessionView> view = sessions_->Get(id);
    if (!cut.ok() && !(trouble_ && now.durable && view.ok() && view->tokens == tokens)) return;
    Cut(now, tokens);
    if (cut.ok()) ExpectLength(id, "a rewind");
    if (cut.ok() && now.durable && now.promised) {
      Promise(now);
      now.least = cut->durable_tokens;
    }
  });
}

void SessionsWalk::Save(const std::string& id) {
  trace_.push_back(absl::StrCat("save ", id));
  const CallPtr call = Begin();
  sessions_->Save(call, id, [=, this](const SaveDone& done) {
    End(call, done.status);
    const auto found = docs_.find(id);
    if (!done.status.ok() || found == docs_.end() || !found->second.open) return;
    Promise(found->second);
    const absl::StatusOr<SessionStore::Texts> texts = OnDisk(id);
    ASSERT_TRUE(texts.ok()) << id << ": " << texts.status();
    EXPECT_EQ(texts->tokens, found->second.now) << id << " after a save";
  });
}

void SessionsWalk::Restore(const std::string& id) {
  trace_.push_back(absl::StrCat("restore ", id));
  const CallPtr call = Begin();
  sessions_->Restore(call, id, "", 0, [=, this](const SaveDone& done) {
    End(call, done.status);
    const auto found = docs_.find(id);
    if (found == docs_.end()) return;
    Doc& doc = found->second;
    if (absl::IsNotFound(done.status)) {
      EXPECT_FALSE(doc.promised) << id << " was saved";
      docs_.erase(found);
    }
    if (!done.status.ok()) return;
    const absl::StatusOr<SessionStore::Texts> texts = OnDisk(id);
    ASSERT_TRUE(texts.ok()) << id << ": " << texts.status();
    doc.open = true;
    StateFrom(id, texts->tokens, "a restore");
    const std::optional<SavedAppend>& append = texts->manifest.append;
    doc.stopped.reset();
    if (append.has_value() && !append->done) {
      doc.stopped = Doc::Stopped{append->id, append->start, append->tokens};
      doc.states.push_back({doc.now.begin(), doc.now.begin() + append->start});
      doc.states.back().insert(doc.states.back().end(), append->tokens.begin(), append->tokens.end());
    }
  });
}

// What was found on the disk is what the session holds now.
void SessionsWalk::StateFrom(const std::string& id, const Tokens& found, const char* when) {
  Doc& doc = docs_[id];
  const bool known =
      std::any_of(doc.states.begin(), doc.states.end(), [&](const Tokens& state) { return BeginsWith(state, found); });
  EXPECT_TRUE(known) << id << ", " << when << ": " << found.size() << " tokens of no state that it was in";
  if (doc.promised) {
    EXPECT_GE(static_cast<int64_t>(found.size()), doc.least) << id << ", " << when << ": lost what was promised";
  }
  doc.now = found;
  Promise(doc);
}

void SessionsWalk::Close(const std::string& id, bool delete_saved) {
  trace_.push_back(absl::StrCat(delete_saved ? "delete " : "close ", id));
  const CallPtr call = Begin();
  docs_[id].open = false;
  docs_[id].stopped.reset();
  if (delete_saved) {
    docs_[id].promised = false;
    docs_[id].least = 0;
  }
  sessions_->Close(id, delete_saved, [=, this](const absl::Status& status) {
    End(call, status);
    if (status.ok() && delete_saved) docs_.erase(id);
    if (absl::IsNotFound(status)) {
      EXPECT_FALSE(docs_[id].promised) << id << " was saved";
      docs_.erase(id);
    }
  });
}

void SessionsWalk::CancelOne() {
  if (running_.empty()) return;
  const CallPtr call = running_[Draw(running_.size())];
  trace_.push_back("cancel");
  ++counts_->cancelled;
  cancelled_.insert(call.get());
  sessions_->Cancel(call);
}

void SessionsWalk::Fault() {
  trouble_ = true;
  ++counts_->faults;
  const int call = static_cast<int>(Draw(40));
  trace_.push_back(absl::StrCat("the disk's call ", call, " will fail"));
  disk_.Begin();
  disk_.FailAt(call, Chance(50) ? EIO : ENOSPC);
}

void SessionsWalk::MoveOut() {
  trace_.push_back("move out");
  sessions_->MoveOutIdle(0);
}

void SessionsWalk::Crash() {
  const int way = static_cast<int>(Draw(Cuts()));
  trace_.push_back(absl::StrCat("crash ", way));
  ++counts_->crashes;
  disk_.FailAt(-1, 0);
  const FaultDisk::State state = disk_.Now();
  std::map<std::string, Doc> docs = std::exchange(docs_, {});  // nobody hears any more how calls end
  trouble_ = true;
  for (const SessionInfo& session : engine_.List()) engine_.CloseSession(session.id).IgnoreError();
  sessions_.reset();
  store_.reset();
  running_.clear();
  cancelled_.clear();
  docs_ = std::move(docs);
  disk_.state = state;
  disk_.Restart(way);
  disk_.Begin();
  trouble_ = false;
  Open();
  if (!testing::Test::HasFailure()) AfterCrash();
}

void SessionsWalk::AfterCrash() {
  std::map<std::string, SessionView> listed;
  for (const SessionView& view : sessions_->List()) listed[view.id] = view;
  std::set<std::string> reading;
  for (auto it = docs_.begin(); it != docs_.end();) {
    auto& [id, doc] = *it;
    const auto view = listed.find(id);
    if (view == listed.end()) {
      EXPECT_FALSE(doc.promised) << id << " was on disk, and is gone";
      it = docs_.erase(it);
      continue;
    }
    const absl::StatusOr<SessionStore::Texts> texts = OnDisk(id);
    ASSERT_TRUE(texts.ok()) << id << ": " << texts.status();
    StateFrom(id, texts->tokens, "after a crash");
    doc.open = view->second.residence != Residence::kSaved;
    doc.durable = texts->manifest.durable;
    doc.stopped.reset();
    const std::optional<SavedAppend>& append = texts->manifest.append;
    if (doc.open && append.has_value() && !append->done) {
      Tokens all(doc.now.begin(), doc.now.begin() + append->start);
      all.insert(all.end(), append->tokens.begin(), append->tokens.end());
      doc.states.push_back(all);
      doc.stopped = Doc::Stopped{append->id, append->start, append->tokens};
      if (doc.durable) reading.insert(id);
    } else if (append.has_value() && !append->done) {
      Tokens all(doc.now.begin(), doc.now.begin() + append->start);
      all.insert(all.end(), append->tokens.begin(), append->tokens.end());
      doc.states.push_back(all);
    }
    ++it;
  }
  Run();
  for (const std::string& id : reading) {  // a durable session goes on by itself
    Doc& doc = docs_[id];
    doc.now.resize(doc.stopped->start);
    doc.now.insert(doc.now.end(), doc.stopped->text.begin(), doc.stopped->text.end());
    doc.stopped.reset();
    Promise(doc);
  }
  Compare();
}

void SessionsWalk::Compare() {
  Run();
  EXPECT_TRUE(running_.empty()) << running_.size() << " calls did not end";
  disk_.FailAt(-1, 0);
  disk_.Begin();
  trouble_ = false;
  for (auto& [id, doc] : docs_) {
    if (!doc.open) continue;
    const absl::StatusOr<SessionView> view = sessions_->Get(id);
    if (doc.stopped.has_value() && doc.durable && view.ok()) {  // a restored one goes on by itself, as far as it comes
      const int64_t read = view->tokens - doc.stopped->start, all = static_cast<int64_t>(doc.stopped->text.size());
      if (view->tokens > static_cast<int64_t>(doc.now.size()) && read <= all) {
        const Doc::Stopped stopped = *doc.stopped;
        doc.now.resize(stopped.start);
        Extend(doc, {stopped.text.begin(), stopped.text.begin() + read});
        if (read == all) doc.stopped.reset();
      }
    }
    ExpectLength(id, "all that was done");
    if (!view.ok() || view->residence != Residence::kMovedOut) continue;
    const absl::StatusOr<SessionStore::Texts> texts = OnDisk(id);
    ASSERT_TRUE(texts.ok()) << id << ": " << texts.status();
    EXPECT_EQ(texts->tokens, doc.now) << id << " moved out";
    const std::vector<Tokens> states = doc.states;
    Promise(doc);
    if (doc.stopped.has_value()) doc.states = states;  // it may be read on
  }
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
