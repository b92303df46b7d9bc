// PrefixServer: what the walk over prompts is on. The service's sessions on a small random model, two layers with half
// of the heads streaming, sinks 4 and a window of 8, memory for few texts and a budget on a disk that survives kills;
// beside them an engine with nothing in its cache, which shows what is right. One thread.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "launcher/serve/sessions/sessions.h"
#include "parallel/communicator.h"
#include "runtime/text/tokenizer.h"
#include "tests/equivalence/fault_disk.h"
#include "tests/golden/golden_model.h"
#include "tests/support/source_dir.h"

namespace duo {

struct PromptAnswer {
  std::vector<int32_t> tokens;
  std::vector<TokenScore> scores;
  RequestResult result;
  CachedText cached;
  bool done = false;
};

class PrefixServer : public testing::Test {
 protected:
  using Answer = PromptAnswer;
  static constexpr char kDir[] = "/saved";
  static constexpr int kMostSessions = 3, kPrefixes = 8;
  static constexpr int64_t kLongest = 2000, kAnswer = 5;  // tokens
  static constexpr int64_t kKvTokens = 11264;
  static constexpr int64_t kDiskBytes = int64_t{48} << 20;

  void SetUp() override {
    scratch_ = std::filesystem::path(testing::TempDir()) / ("duo_prefix_walk_" + std::to_string(getpid()));
    golden_ = LoadGolden("llama_gqa_tied_biases_sharded", scratch_.string());
    GivePositions(golden_, 4096);
    auto loaded = Tokenizer::Load(SourceDir() + "/launcher/demo/needle-6m/tokenizer.json");
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    tokenizer_.emplace(*std::move(loaded));
    reference_ = MakeEngine(nullptr);
    ASSERT_NE(reference_, nullptr);
    reference_empty_ = *reference_->CreateSession(1, 0);
    Start();
  }
  void TearDown() override {
    Stop();
    reference_.reset();
    close(nowhere_);
    std::filesystem::remove_all(scratch_);
  }

  FileSystem Files() {
    FileSystem files = disk_.Files();
    files.read = [this, read = files.read](int fd, void* data, int64_t bytes, int64_t offset) {
      const int64_t done = read(fd, data, bytes, offset);
      if (slow_ && done > 0) std::this_thread::sleep_for(std::chrono::microseconds(done));
      return done;
    };
    return files;
  }
  // Two layers, half of the heads streaming, sinks 4, window 8. files: null for the one that shows what is right.
  std::unique_ptr<Engine> MakeEngine(const FileSystem* files) {
    EngineOptions options;
    options.model_dir = golden_.model_dir;
    options.pattern_dir = golden_.pattern_dir;
    options.threshold = 0.5;
    options.sink = 4;
    options.recent = 8;
    options.files = files;
    options.chunk = 256;
    options.sessions = static_cast<int>(kMostSessions) + 1;
    options.questions = 3;
    options.prefixes = files == nullptr ? 0 : kPrefixes;
    options.kv_tokens = files == nullptr ? 2 * kLongest : kKvTokens;
    options.max_session_tokens = kLongest + 2 * kAnswer;
    auto engine = Engine::Create(options, *device_, *comm_);
    EXPECT_TRUE(engine.ok()) << engine.status();
    return engine.ok() ? *std::move(engine) : nullptr;
  }
  void Start() {
    engine_ = MakeEngine(&files_);
    ASSERT_NE(engine_, nullptr);
    StoreOptions so;
    so.files = &files_;
    so.look_seconds = 0;
    auto store = SessionStore::Open(kDir, golden_.model_dir, *engine_, std::move(so));
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    SessionsOptions options;
    options.max_session_tokens = kLongest + 2 * kAnswer;
    options.job_seconds = 0;
    options.prefixes = true;
    options.prefix_disk = kDiskBytes;
    options.disk_rate = disk_rate_;
    sessions_ = std::make_unique<Sessions>(options, *engine_, store_.get(), log_);
    ASSERT_TRUE(sessions_->ExpectPrompts().ok());
    sessions_->Recover();
  }
  void Stop() {
    if (engine_ != nullptr) {
      for (const SessionInfo& session : engine_->List()) engine_->CloseSession(session.id).IgnoreError();
    }
    sessions_.reset();
    store_.reset();
    engine_.reset();
  }
  void Finish() {
    for (int64_t steps = 0;; ++steps) {
      bool more = sessions_->Tick();
      more = engine_->Step() || more;
      if (!more && sessions_->Quiet()) return;
      ASSERT_LT(steps, 10000000) << "it does not come to an end";
    }
  }
  // As if the process were gone, and the machine with it (Cut).
  void Kill(int way) {
    const FaultDisk::State state = disk_.Now();
    Stop();
    disk_.state = state;
    disk_.Restart(way);
    Start();
  }

  static AskEvents Events(const std::shared_ptr<Answer>& answer) {
    AskEvents events;
    events.on_token = [answer](int32_t token) {
      answer->tokens.push_back(token);
      return true;
    };
    events.on_score = [answer](const TokenScore& score) { answer->scores.push_back(score); };
    events.on_start = [answer](const CachedText& cached) { answer->cached = cached; };
    events.on_done = [answer](const RequestResult& result, int64_t) {
      answer->result = result;
      answer->done = true;
    };
    return events;
  }
  static GenerateParams Params() {
    GenerateParams params;
    params.max_new_tokens = kAnswer;
    params.rules.scores = 2;
    return params;
  }
  int32_t vocab() const { return static_cast<int32_t>(golden_.full.logits.size()); }
  const Answer& Fresh(const std::vector<int32_t>& prompt) {
    if (fresh_.size() > 300) fresh_.clear();
    auto& known = fresh_[prompt];
    if (known != nullptr) return *known;
    known = std::make_shared<Answer>();
    const AskEvents events = Events(known);
    RequestEvents plain = events.ForEngine();
    plain.on_done = [events](const RequestResult& result) { events.on_done(result, 0); };
    EXPECT_TRUE(reference_->Ask(reference_empty_, prompt, Params(), std::move(plain)).ok());
    while (reference_->Step()) {
    }
    return *known;
  }
  // The test rule, on log-probabilities, which lie at most twice as far apart as logits.
  void ExpectSame(const Answer& a, const Answer& fresh) {
    const float tolerance = 2 * golden_.duo.tolerance() / 256;  // of a CPU: engine_fixture.h says why
    ASSERT_EQ(a.tokens.size(), fresh.tokens.size());
    ASSERT_EQ(a.scores.size(), fresh.scores.size());
    for (size_t i = 0; i < a.scores.size(); ++i) {
      const TokenScore &x = a.scores[i], &y = fresh.scores[i];
      ASSERT_NEAR(x.best[0].logprob, y.best[0].logprob, tolerance) << "token " << i;
      ASSERT_NEAR(x.best[1].logprob, y.best[1].logprob, tolerance) << "token " << i;
      if (a.tokens[i] == fresh.tokens[i]) continue;
      ASSERT_LE(y.best[0].logprob - y.best[1].logprob, tolerance) << "token " << i;
      return;  // a tie within the tolerance: from here on the texts differ
    }
  }

  // What is in the folders of what prompts left, to the byte.
  int64_t PrefixBytesOnDisk() {
    int64_t bytes = 0;
    for (const std::string& name : disk_.Names(kDir)) {
      if (!name.starts_with("prefix-")) continue;
      const std::string dir = absl::StrCat(kDir, "/", name);
      for (const std::string& file : disk_.Names(dir)) bytes += std::ssize(disk_.Text(absl::StrCat(dir, "/", file)));
    }
    return bytes;
  }
  void CheckBounds() {
    EXPECT_LE(engine_->stats().prefixes, kPrefixes);
    most_disk_ = std::max(most_disk_, PrefixBytesOnDisk());
    EXPECT_LE(most_disk_, kDiskBytes);
  }
  void ExpectAllBack() {
    for (const SessionView& view : sessions_->List()) {
      if (view.residence != Residence::kSaved) sessions_->Close(view.id, false);
    }
    Finish();
    engine_->DropPrefixes();
    const EngineStats stats = engine_->stats();
    EXPECT_EQ(stats.pages_free, stats.pages);
    EXPECT_EQ(stats.pages_available, stats.pages);
    EXPECT_EQ(stats.split_pages_free, stats.split_pages);
    EXPECT_EQ(stats.rings_free, stats.rings - 1);  // of the empty session that prompts are forks of
  }

  const int nowhere_ = open("/dev/null", O_WRONLY | O_CLOEXEC);
  const Log log_{true, nowhere_};
  FaultDisk disk_;
  double disk_rate_ = 1e12;         // so that whatever is saved is worth bringing back, however fast the machine is
  std::atomic<bool> slow_ = false;  // the disk reads a megabyte a second
  FileSystem files_ = Files();
  std::filesystem::path scratch_;
  Golden golden_;
  std::optional<Tokenizer> tokenizer_;
  std::unique_ptr<Device> device_ = Device::Cpu(1);
  std::unique_ptr<Communicator> comm_ = MakeSelfCommunicator();
  std::unique_ptr<Engine> engine_, reference_;
  SessionId reference_empty_ = 0;
  std::unique_ptr<SessionStore> store_;
  std::unique_ptr<Sessions> sessions_;
  std::map<std::vector<int32_t>, std::shared_ptr<Answer>> fresh_;
  int64_t most_disk_ = 0;
};

}  // namespace duo
