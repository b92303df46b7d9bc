// What should be, and comparing it with what is.
#include <algorithm>
#include <utility>

#include "tests/walk/sessions_walk.h"

namespace duo {
namespace {

bool BeginsWith(const std::vector<int32_t>& all, const std::vector<int32_t>& part) {
  return part.size() <= all.size() && std::equal(part.begin(), part.end(), all.begin());
}

}  // namespace

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

int64_t SessionsWalk::Least(const Doc& doc, int64_t promised) {
  return doc.cuts.empty() ? promised : std::min(promised, *doc.cuts.begin());
}

void SessionsWalk::ExpectLength(const std::string& id, const char* after) {
  const absl::StatusOr<SessionView> view = sessions_->Get(id);
  ASSERT_TRUE(view.ok()) << id << " after " << after << ": " << view.status();
  EXPECT_EQ(view->tokens, static_cast<int64_t>(docs_[id].now.size())) << id << " after " << after;
}

// What was found on the disk is what the session holds now.
void SessionsWalk::StateFrom(const std::string& id, const Tokens& found, const char* when) {
  Doc& doc = docs_[id];
  const bool known =
      std::any_of(doc.states.begin(), doc.states.end(), [&](const Tokens& state) { return BeginsWith(state, found); });
  EXPECT_TRUE(known) << id << ", " << when << ": " << found.size() << " tokens of no state that it was in";
  if (doc.promised) {
    EXPECT_GE(static_cast<int64_t>(found.size()), Least(doc, doc.least))
        << id << ", " << when << ": lost what was promised";
  }
  doc.now = found;
  Promise(doc);
}

// A durable session that is restored goes on by itself with an append that has no id. If a fault ends that, nobody can
// repeat the append, and it is undone as every one without an id that is broken off.
bool SessionsWalk::MayBeUndone(const Doc& doc) const {
  return trouble_ && doc.open && doc.durable && doc.stopped.has_value() && doc.stopped->id.empty();
}

// No fault is meant for the test's own look.
absl::StatusOr<SessionStore::Texts> SessionsWalk::OnDisk(const std::string& id) {
  disk_.FailAt(-1, 0);
  absl::StatusOr<SessionStore::Texts> texts = absl::UnknownError("not read");
  store_->Do([&] { texts = store_->ReadTexts(id); });
  store_->WaitForDisk();
  return texts;
}

void SessionsWalk::Compare() {
  Run();
  EXPECT_TRUE(running_.empty()) << running_.size() << " calls did not end";
  disk_.FailAt(-1, 0);
  disk_.Begin();
  for (auto& [id, doc] : docs_) {
    if (!doc.open) continue;
    const absl::StatusOr<SessionView> view = sessions_->Get(id);
    if (MayBeUndone(doc) && view.ok() && view->tokens == doc.stopped->start) Cut(doc, doc.stopped->start);
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
  trouble_ = false;
}

}  // namespace duo
