// What a saved session survives: every call to the disk fails in turn, the machine loses its power before every call,
// and every sync is left out in turn. Afterwards the former or the new state of each session is there, never neither,
// and the session can be saved again; what was answered with OK is the new state. A sync whose loss nobody would notice
// fails the test too.
#include <functional>
#include <optional>
#include <set>

#include "absl/strings/str_cat.h"
#include "tests/equivalence/store_fixture.h"

namespace duo {
namespace {

using Sessions = std::map<std::string, Tokens>;  // what is saved: id, tokens

class StoreFaultsTest : public StoreFixture {
 protected:
  // before: what is done once on an empty disk. ready: what is done on that disk with every store that is opened anew.
  // act: what is then done while calls fail.
  struct Scenario {
    std::function<absl::Status()> before, ready, act;
    Sessions former, now;
    std::optional<bool> open = std::nullopt;  // what all of them say of it in the end
  };

  // What is wrong with the disk when each session must be as in one of `allowed`; empty: nothing.
  std::string Wrong(const std::vector<const Sessions*>& allowed, std::optional<bool> open = std::nullopt) {
    if (absl::Status s = OpenStore(); !s.ok()) return absl::StrCat("the store does not open: ", s.ToString());
    for (const SavedSession& saved : store_->List()) {
      if (open.has_value() && saved.manifest.ok() && saved.manifest->open != *open) return saved.id + " is not closed";
    }
    std::set<std::string> ids;
    for (const Sessions* sessions : allowed) {
      for (const auto& [id, tokens] : *sessions) ids.insert(id);
    }
    for (const std::string& id : ids) {
      std::vector<Tokens> states;
      bool may_be_absent = false;
      for (const Sessions* sessions : allowed) {
        const auto found = sessions->find(id);
        if (found == sessions->end()) may_be_absent = true;
        if (found != sessions->end()) states.push_back(found->second);
      }
      const absl::Status restored = Restore(id);
      Tokens tokens;
      if (absl::IsNotFound(restored)) {
        if (!may_be_absent) return absl::StrCat(id, " is gone");
        if (absl::Status s = Create(id, Text(40, 9)); !s.ok()) return absl::StrCat(id, ": ", s.ToString());
        tokens = Text(40, 9);
      } else {
        if (!restored.ok()) return absl::StrCat(id, ": ", restored.ToString());
        tokens = *bench_.engine->Tokens(open_[id]);
        if (std::find(states.begin(), states.end(), tokens) == states.end()) {
          return absl::StrCat(id, " has ", tokens.size(), " tokens, of neither state");
        }
        if (!Same(Ask(open_[id]), Expected(tokens))) return absl::StrCat(id, " answers otherwise than it should");
      }
      Append(id, Text(3, 8));
      for (int32_t token : Text(3, 8)) tokens.push_back(token);
      if (absl::Status s = Save(id); !s.ok()) return absl::StrCat(id, " cannot be saved again: ", s.ToString());
      Crash(static_cast<int>(Cut::kAllLost));
      if (absl::Status s = OpenStore(); !s.ok()) return absl::StrCat("the store does not open again: ", s.ToString());
      if (absl::Status s = Restore(id); !s.ok()) return absl::StrCat(id, ", saved again: ", s.ToString());
      if (*bench_.engine->Tokens(open_[id]) != tokens) return absl::StrCat(id, ", saved again, has other tokens");
      if (!Same(Ask(open_[id]), Expected(tokens))) return absl::StrCat(id, ", saved again, answers otherwise");
    }
    return "";
  }
  absl::Status Begin(const Scenario& s, const FaultDisk::State& base) {
    store_.reset();
    disk_.state = base;
    disk_.Restart(static_cast<int>(Cut::kNone));
    absl::Status status = OpenStore();
    if (status.ok() && s.ready) status = s.ready();
    disk_.Begin();
    return status;
  }

  void Enumerate(const Scenario& s) {
    disk_.state = FaultDisk().state;
    ASSERT_TRUE(OpenStore().ok());
    if (s.before) {
      const absl::Status before = s.before();
      ASSERT_TRUE(before.ok()) << before;
    }
    store_.reset();
    const FaultDisk::State base = disk_.state;
    std::vector<FaultDisk::State> states;
    std::vector<std::string> called;
    int syncs = 0;

    // The power goes before every call, and after the last.
    auto run = [&](int forgotten) {
      const absl::Status ready = Begin(s, base);
      ASSERT_TRUE(ready.ok()) << ready;
      states.clear();
      disk_.Record(&states);
      disk_.ForgetSync(forgotten);
      const absl::Status done = s.act();
      ASSERT_TRUE(done.ok()) << done;
      disk_.Record(nullptr);
      states.push_back(disk_.state);
      called = disk_.called();
      called.push_back("the end");
      syncs = disk_.syncs();
    };
    auto cut = [&](size_t at, int way) {
      store_.reset();
      disk_.state = states[at];
      disk_.Restart(way);
      const bool last = at + 1 == states.size();
      return last ? Wrong({&s.now}, s.open) : Wrong({&s.former, &s.now});
    };
    run(-1);
    if (HasFatalFailure()) return;
    for (size_t at = 0; at < states.size(); ++at) {
      for (int way = 0; way < Cuts(); ++way) {
        const std::string wrong = cut(at, way);
        EXPECT_EQ(wrong, "") << "power cut " << way << " before " << called[at];
      }
    }

    // Every call fails.
    const int calls = static_cast<int>(called.size()) - 1;
    for (int call = 0; call < calls; ++call) {
      ASSERT_TRUE(Begin(s, base).ok());
      disk_.FailAt(call, call % 2 == 0 ? ENOSPC : EIO);
      const absl::Status done = s.act();
      const FaultDisk::State after = disk_.state;
      for (int way = 0; way < Cuts(); ++way) {
        store_.reset();
        disk_.state = after;
        disk_.Restart(way);
        const std::string wrong = done.ok() ? Wrong({&s.now}, s.open) : Wrong({&s.former, &s.now});
        EXPECT_EQ(wrong, "") << called[call] << " failed, then " << way << "; answered " << done;
      }
      // The same store goes on when the disk is well again.
      ASSERT_TRUE(Begin(s, base).ok());
      disk_.FailAt(call, call % 2 == 0 ? ENOSPC : EIO);
      if (s.act().ok()) continue;
      disk_.Begin();
      const absl::Status again = s.act();
      EXPECT_TRUE(again.ok()) << called[call] << " failed, and then " << again;
      Crash(static_cast<int>(Cut::kAllLost));
      EXPECT_EQ(Wrong({&s.now}, s.open), "") << called[call] << " failed, and it was tried again";
    }

    // No sync can be left out.
    EXPECT_GT(syncs, 0);
    for (int sync = 0; sync < syncs; ++sync) {
      run(sync);
      if (HasFatalFailure()) return;
      bool noticed = false;
      for (size_t at = states.size(); at-- > 0 && !noticed;) {
        for (int way = 1; way < Cuts() && !noticed; ++way) noticed = !cut(at, way).empty();
      }
      EXPECT_TRUE(noticed) << "sync " << sync << " of " << syncs << " is needed for nothing";
    }
    RecordProperty("calls", calls);
    std::printf("%d calls, %d syncs\n", calls, syncs);
  }
};

TEST_F(StoreFaultsTest, AFirstSave) {
  const Tokens text = Text(150, 1);
  Enumerate({{}, [&] { return Create("doc", text); }, [&] { return Save("doc"); }, {}, {{"doc", text}}});
}

TEST_F(StoreFaultsTest, ALaterSave) {
  const Tokens text = Text(150, 1), more = Text(20, 2);
  Enumerate({[&] {
               Create("doc", text).IgnoreError();
               return Save("doc");
             },
             [&] {
               absl::Status restored = Restore("doc");
               Append("doc", more);
               return restored;
             },
             [&] { return Save("doc"); },
             {{"doc", text}},
             {{"doc", Joined(text, more)}}});
}

TEST_F(StoreFaultsTest, ASaveThatSharesNothingWithTheFormer) {
  const Tokens text = Text(150, 1), other = Text(140, 2);
  Enumerate({[&] {
               Create("doc", text).IgnoreError();
               return Save("doc");
             },
             [&] { return Create("doc", other); },
             [&] { return Save("doc", {}, true); },
             {{"doc", text}},
             {{"doc", other}}});
}

SessionManifest Meta(bool open, std::optional<SavedAppend> append = std::nullopt) {
  SessionManifest meta;
  meta.max_tokens = 500;
  meta.durable = true;
  meta.open = open;
  meta.append = std::move(append);
  return meta;
}

TEST_F(StoreFaultsTest, ACheckpointOfAnAppend) {
  const Tokens text = Text(130, 1), more = Text(60, 2), first(more.begin(), more.begin() + 30);
  const SavedAppend append = {"a", 99, 130, 60, false, more, {}};
  Enumerate({[&] {
               Create("doc", text).IgnoreError();
               return Save("doc", Meta(true, append));
             },
             [&] {
               absl::Status restored = Restore("doc");
               Append("doc", first);
               return restored;
             },
             [&] { return Save("doc", Meta(true, append)); },
             {{"doc", text}},
             {{"doc", Joined(text, first)}}});
  ASSERT_TRUE(OpenStore().ok());
}

// What the same server saved before: files are added to, those of tokens too.
TEST_F(StoreFaultsTest, ALaterSaveOfTheSameServer) {
  const Tokens text = Text(130, 1), more = Text(30, 2), last = Text(25, 3), saved = Joined(text, more);
  Enumerate({[&] {
               Create("doc", text).IgnoreError();
               return Save("doc");
             },
             [&] {
               if (absl::Status s = Restore("doc"); !s.ok()) return s;
               Append("doc", more);
               if (absl::Status s = Save("doc"); !s.ok()) return s;
               Append("doc", last);
               return absl::OkStatus();
             },
             [&] { return Save("doc"); },
             {{"doc", saved}},
             {{"doc", Joined(saved, last)}}});
}

TEST_F(StoreFaultsTest, ARewind) {
  const Tokens text = Text(300, 1), less(text.begin(), text.begin() + 140);
  Enumerate({[&] {
               Create("doc", text).IgnoreError();
               return Save("doc", Meta(true));
             },
             [&] { return Restore("doc"); },
             [&] {
               if (absl::Status s = bench_.engine->Rewind(open_["doc"], 140); !s.ok()) return s;
               return store_->RewindSaved("doc", 140, Meta(true));
             },
             {{"doc", text}},
             {{"doc", less}}});
}

// What idle-out leaves is a session that is saved as open; closing it then changes the manifest alone.
TEST_F(StoreFaultsTest, ASessionThatMovedOutIsClosed) {
  const Tokens text = Text(150, 1);
  Enumerate({[&] {
               Create("doc", text).IgnoreError();
               absl::Status saved = Save("doc", Meta(true));
               store_->Forget("doc");
               return saved;
             },
             {},
             [&] { return store_->SetOpen("doc", false); },
             {{"doc", text}},
             {{"doc", text}},
             false});
}

TEST_F(StoreFaultsTest, ADrainOfTwoSessions) {
  const Tokens one = Text(150, 1), two = Text(20, 2), more = Text(9, 3);
  Enumerate({[&] {
               Create("one", one).IgnoreError();
               return Save("one", Meta(true));
             },
             [&] {
               absl::Status restored = Restore("one");
               Append("one", more);
               Create("two", two).IgnoreError();
               return restored;
             },
             [&] {
               absl::Status s = Save("one", Meta(true));
               if (absl::Status t = Save("two", Meta(true)); !t.ok()) s = t;
               return s;
             },
             {{"one", one}},
             {{"one", Joined(one, more)}, {"two", two}}});
}

TEST_F(StoreFaultsTest, ADeletion) {
  const Tokens text = Text(150, 1);
  Enumerate({[&] {
               Create("doc", text).IgnoreError();
               return Save("doc", Meta(true));
             },
             {},
             [&] {
               const absl::Status deleted = store_->Delete("doc");
               return absl::IsNotFound(deleted) ? absl::OkStatus() : deleted;
             },
             {{"doc", text}},
             {}});
}

// After a crash in the middle of a save: the store opens, takes the session up, restores and saves it.
TEST_F(StoreFaultsTest, ARecovery) {
  const Tokens text = Text(150, 1), more = Text(20, 2);
  Enumerate({[&] {
               Create("doc", text).IgnoreError();
               if (absl::Status s = Save("doc", Meta(true)); !s.ok()) return s;
               Append("doc", more);
               disk_.Begin();
               disk_.FailAt(6, EIO);
               auto job = store_->StartSave("doc", open_["doc"], Meta(true));
               if (!job.ok()) return job.status();
               if (Finish(**job).ok()) return absl::InternalError("the save was to break off");
               const FaultDisk::State broken = disk_.state;
               job->reset();
               store_.reset();
               disk_.state = broken;
               return absl::OkStatus();
             },
             {},
             [&] {
               if (absl::Status s = OpenStore(); !s.ok()) return s;
               if (absl::Status s = store_->Hold("doc"); !s.ok()) return s;
               if (absl::Status s = Restore("doc"); !s.ok()) return s;
               if (bench_.engine->Get(open_["doc"])->tokens == 150) Append("doc", more);
               return Save("doc", Meta(true));
             },
             {{"doc", text}},
             {{"doc", Joined(text, more)}}});
}

}  // namespace
}  // namespace duo
