// The calls of a walk, and what their answers promise.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/walk/sessions_walk.h"

namespace duo {
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
    if (!view.ok() || RefusedForState(result.status) || BeforeItsTurn(result.status)) return;
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
    doc.states = {now};  // a save that was committed before it failed leaves it on disk
    ExpectLength(fork, "a fork");
  });
}

void SessionsWalk::Rewind(const std::string& id) {
  Doc& doc = docs_[id];
  const int64_t tokens = Draw(doc.now.size() + 1);
  trace_.push_back(absl::StrCat("rewind ", id, " to ", tokens));
  if (doc.durable) doc.cuts.insert(tokens);
  const CallPtr call = Begin();
  sessions_->Rewind(call, id, tokens, [=, this](const absl::StatusOr<SessionView>& cut) {
    End(call, cut.status());
    const auto found = docs_.find(id);
    if (found == docs_.end()) return;
    Doc& now = found->second;
    if (const auto own = now.cuts.find(tokens); own != now.cuts.end()) now.cuts.erase(own);
    // The one error after which it is done all the same. Of a session that was closed meanwhile nobody can tell.
    const bool done = cut.ok() || cut.status().message().find(" is cut to ") != std::string::npos;
    if (!done && now.open) return;
    if (now.durable) now.least = std::min(now.least, tokens);
    if (!now.open) return;
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

}  // namespace duo
