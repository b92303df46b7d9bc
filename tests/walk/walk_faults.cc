// What befalls a walk: cancellations, faults of the disk, idle sessions, crashes and power cuts.
#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/walk/sessions_walk.h"

namespace duo {
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
  for (auto& [id, doc] : docs) {
    if (MayBeUndone(doc)) doc.least = std::min(doc.least, doc.stopped->start);
  }
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
    doc.cuts.clear();
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

}  // namespace duo
