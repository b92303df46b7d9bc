// Sessions of a small model on a disk in memory: what the tests of the session store share. One thread.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "runtime/files/crc32c.h"
#include "runtime/saved/session_store.h"
#include "tests/equivalence/engine_fixture.h"
#include "tests/equivalence/fault_disk.h"

namespace duo {

using Tokens = std::vector<int32_t>;

inline Tokens Joined(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class StoreFixture : public EngineFixture {
 protected:
  static constexpr char kDir[] = "/saved";

  void SetUp() override {
    EngineFixture::SetUp();
    files_ = disk_.Files();
    bench_ = OpenBench(KvFormat::kF32);
  }
  Bench OpenBench(KvFormat kv) {
    EngineOptions options = Options();
    options.files = &files_;
    options.kv = kv;
    return EngineFixture::Open(options);
  }
  StoreOptions Plain() const {
    StoreOptions options;
    options.files = &files_;
    options.look_seconds = 0;
    return options;
  }

  // The process is gone, and with it whatever its store would still have done; the disk is as it was in that moment, or
  // what a power cut leaves of it.
  void Crash(int way) {
    const FaultDisk::State state = disk_.state;
    store_.reset();
    disk_.state = state;
    disk_.Restart(way);
  }
  absl::Status OpenStore() {
    store_.reset();
    open_.clear();
    for (const SessionInfo& info : bench_.engine->List()) bench_.engine->CloseSession(info.id).IgnoreError();
    auto store = SessionStore::Open(kDir, golden_.model_dir, *bench_.engine, Plain());
    if (!store.ok()) return store.status();
    store_ = std::move(*store);
    return absl::OkStatus();
  }
  void Append(const std::string& id, const Tokens& tokens) {
    bench_.Append(open_[id], tokens);
    bench_.Run();
  }
  absl::Status Create(const std::string& id, const Tokens& tokens) {
    open_[id] = bench_.Open(500);
    Append(id, tokens);
    return absl::OkStatus();
  }
  absl::Status Save(const std::string& id, const SessionManifest& meta = {}, bool replace = false) {
    return SaveIn(*store_, id, open_[id], meta, replace);
  }
  static absl::Status SaveIn(SessionStore& store, const std::string& id, SessionId session,
                             const SessionManifest& meta = {}, bool replace = false) {
    auto job = store.StartSave(id, session, meta, replace);
    return job.ok() ? Finish(**job) : job.status();
  }
  template <typename Job>
  static absl::Status Finish(Job& job) {
    while (true) {
      const absl::StatusOr<bool> done = job.Step();
      if (!done.ok()) return done.status();
      if (*done) return absl::OkStatus();
    }
  }
  absl::Status Restore(const std::string& id) {
    auto job = store_->StartRestore(id, 500);
    if (!job.ok()) return job.status();
    if (absl::Status s = Finish(**job); !s.ok()) return s;
    open_[id] = (*job)->session();
    return absl::OkStatus();
  }

  // The logits of one question on a session of these tokens.
  std::vector<float> Ask(SessionId session) { return bench_.AskNow(session, Text(5, 77), 1).logits.at(0); }
  const std::vector<float>& Expected(const Tokens& tokens) {
    std::vector<float>& logits = expected_[tokens];
    if (logits.empty()) {
      const SessionId session = bench_.Open(500);
      bench_.Append(session, tokens);
      logits = Ask(session);
      bench_.engine->CloseSession(session).IgnoreError();
    }
    return logits;
  }

  bool Same(const std::vector<float>& a, const std::vector<float>& b) const {
    const float tolerance = golden_.duo.tolerance() / 256;  // that of f32, see saved_main.cc
    for (size_t i = 0; i < b.size(); ++i) {
      if (!(std::abs(a[i] - b[i]) <= tolerance)) return false;
    }
    return true;
  }

  void ExpectRestored(const std::string& id, const Tokens& tokens) {
    const absl::Status restored = Restore(id);
    ASSERT_TRUE(restored.ok()) << restored;
    EXPECT_EQ(*bench_.engine->Tokens(open_[id]), tokens);
    EXPECT_TRUE(Same(Ask(open_[id]), Expected(tokens)));
  }
  nlohmann::json ManifestJson(const std::string& id) {
    const std::string text = disk_.Text(absl::StrCat(kDir, "/", id, "/manifest"));
    return nlohmann::json::parse(text.substr(0, text.rfind("crc32c")));
  }
  void PutManifest(const std::string& id, const nlohmann::json& json) {
    std::string text = json.dump() + "\n";
    absl::StrAppendFormat(&text, "crc32c %08x\n", Crc32c(text.data(), text.size()));
    disk_.Put(absl::StrCat(kDir, "/", id, "/manifest"), text);
  }
  FaultDisk disk_;
  FileSystem files_;
  Bench bench_;
  std::unique_ptr<SessionStore> store_;
  std::map<std::string, SessionId> open_;
  std::map<Tokens, std::vector<float>> expected_;
};

}  // namespace duo
