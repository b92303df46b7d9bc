// A server without a transport on the demo model, and clients that are plain
// objects: what the tests of the calls run. Clients may be used by any thread;
// the rest belongs to the test's.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "launcher/serve/calls/append_job.h"
#include "launcher/serve/calls/ask_job.h"
#include "launcher/serve/calls/cluster_calls.h"
#include "launcher/serve/calls/session_calls.h"
#include "launcher/serve/server.h"
#include "parallel/communicator.h"
#include "tests/support/source_dir.h"

namespace duo {

// What waits for a call waits no longer than this.
constexpr std::chrono::seconds kPatience{120};

// The client's end of a streaming call: keeps what it is sent. A client that is
// not `eager` confirms no message until told to.
template <typename Message>
class Client {
 public:
  explicit Client(bool eager = true) : eager_(eager) {}

  CallTransport<Message> Transport() {
    return {[this](Message message) { OnWrite(std::move(message)); },
            [this](const absl::Status& status) { OnFinish(status); }, [this] { OnRead(); }};
  }
  // The job's Written; set before the job starts.
  std::function<void(bool ok)> written;

  absl::Status Wait() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kPatience, [this] { return status_.has_value(); }));
    return status_.value_or(absl::UnknownError("the call did not end"));
  }
  // Waits until the job has asked for the client's next message so often, or
  // has ended.
  void WaitForRead(int reads) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kPatience, [&] { return reads_ >= reads || status_.has_value(); }));
  }
  void WaitForMessages(size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kPatience, [&] { return messages_.size() >= count || status_.has_value(); }));
  }
  std::vector<Message> messages() const {
    std::lock_guard lock(mutex_);
    return messages_;
  }
  int reads() const {
    std::lock_guard lock(mutex_);
    return reads_;
  }
  bool ended() const {
    std::lock_guard lock(mutex_);
    return status_.has_value();
  }

 private:
  void OnWrite(Message message) {
    {
      std::lock_guard lock(mutex_);
      EXPECT_FALSE(status_.has_value()) << "a message after the end";
      messages_.push_back(std::move(message));
      changed_.notify_all();
    }
    if (eager_) written(true);
  }
  void OnFinish(const absl::Status& status) {
    std::lock_guard lock(mutex_);
    EXPECT_FALSE(status_.has_value()) << "two ends";
    status_ = status;
    changed_.notify_all();
  }
  void OnRead() {
    std::lock_guard lock(mutex_);
    EXPECT_FALSE(status_.has_value()) << "a read after the end";
    ++reads_;
    changed_.notify_all();
  }

  const bool eager_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Message> messages_;
  int reads_ = 0;
  std::optional<absl::Status> status_;
};

// The client of a call with one answer.
template <typename Answer>
class Awaited {
 public:
  Answered<Answer> Finish() {
    return [this](const absl::StatusOr<Answer>& answer) {
      std::lock_guard lock(mutex_);
      EXPECT_FALSE(answer_.has_value()) << "two answers";
      answer_ = answer;
      changed_.notify_all();
    };
  }
  absl::StatusOr<Answer> Wait() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kPatience, [this] { return answer_.has_value(); }));
    return answer_.value_or(absl::UnknownError("the call did not end"));
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<absl::StatusOr<Answer>> answer_;
};

class ServiceFixture : public testing::Test {
 protected:
  void SetUp() override {
    scratch_ =
        std::filesystem::path(testing::TempDir()) /
        ("duo_serve_" + std::to_string(getpid()) + testing::UnitTest::GetInstance()->current_test_info()->name());
    EngineOptions options;
    options.model_dir = model_;
    options.files = options_.files = files_;
    options.pattern_dir = SourceDir() + "/attn_patterns/needle-6m";
    options.sparsity = 0.75;
    options.chunk = 64;
    options.sessions = 4;
    options.questions = 4;
    options.prefixes = prefixes_;
    options.provenance = options_.sources = sources_;
    options.kv_tokens = kv_tokens_;
    options.max_session_tokens = max_session_tokens_;
    auto engine = Engine::Create(options, *device_, *comm_);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = std::move(*engine);
    auto tokenizer = Tokenizer::Load(model_ + "/tokenizer.json");
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = std::move(*tokenizer);
    options_.model_dir = model_;
    options_.max_session_tokens = max_session_tokens_;
    options_.save_dir = scratch_.string();
    options_.grace_seconds = 60;
  }
  void TearDown() override {
    server_ = nullptr;
    engine_ = nullptr;
    std::filesystem::remove_all(scratch_);
  }
  // With options_; calls wait until Run where `run` is false.
  void Serve(bool run = true) {
    auto server = Server::Make(options_, *engine_, tokenizer_, {}, log_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(*server);
    if (run) server_->Run();
  }
  CallContext& context() { return server_->context(); }

  absl::StatusOr<SessionView> Create(const std::string& id, int64_t max_tokens = 1024, bool durable = false) {
    Awaited<SessionView> created;
    StartCreate(context(), caller_, {id, max_tokens, durable, 0}, created.Finish());
    return created.Wait();
  }
  absl::StatusOr<SessionView> Get(const std::string& id) {
    Awaited<SessionView> got;
    StartGet(context(), caller_, {id}, got.Finish());
    return got.Wait();
  }
  absl::StatusOr<std::vector<int32_t>> Tokenize(const std::string& text) {
    Awaited<std::vector<int32_t>> made;
    StartTokenize(context(), caller_, {text}, made.Finish());
    return made.Wait();
  }
  absl::Status Close(const std::string& id, bool delete_saved = false) {
    Awaited<CloseAnswer> closed;
    StartClose(context(), caller_, {id, delete_saved}, closed.Finish());
    return closed.Wait().status();
  }
  ClusterStats Stats() {
    Awaited<ClusterStats> stats;
    StartStats(context(), caller_, stats.Finish());
    return *stats.Wait();
  }

  using AskClient = Client<AskUpdate>;
  using AppendClient = Client<AppendUpdate>;
  std::shared_ptr<AskJob> StartAsk(AskClient& client, const AskRequest& request) {
    auto job = std::make_shared<AskJob>(context(), client.Transport());
    client.written = [job = job.get()](bool ok) { job->Written(ok); };
    job->Start(caller_, request);
    return job;
  }
  std::shared_ptr<AppendJob> MakeAppend(AppendClient& client) {
    auto job = std::make_shared<AppendJob>(context(), client.Transport());
    client.written = [job = job.get()](bool ok) { job->Written(ok); };
    return job;
  }
  // Sends these pieces, each when it is asked for, and what ends them.
  absl::Status Append(std::vector<AppendPiece> pieces, AppendUpdate* last = nullptr) {
    AppendClient client;
    auto job = MakeAppend(client);
    job->Start(caller_);
    int reads = 0;
    for (AppendPiece& piece : pieces) {
      client.WaitForRead(++reads);
      if (client.ended()) return client.Wait();
      job->Take(std::move(piece));
    }
    client.WaitForRead(++reads);
    if (!client.ended()) job->TakeEnd();
    const absl::Status status = client.Wait();
    if (last != nullptr && !client.messages().empty()) *last = client.messages().back();
    return status;
  }
  absl::Status Append(const std::string& id, const std::string& text, const std::string& append_id = "") {
    return Append({{.session_id = id, .append_id = append_id, .text = text}});
  }

  // Words that follow from the seed alone.
  static std::string Text(int words, uint64_t seed) {
    std::string text;
    for (int i = 0; i < words; ++i) text += " w" + std::to_string((seed * 7919 + i * 104729) % 977);
    return text;
  }

  const std::string model_ = SourceDir() + "/launcher/demo/needle-6m";
  const FileSystem* files_ = nullptr;  // set by a constructor, as what follows; null: the machine's own
  int64_t kv_tokens_ = 8192, max_session_tokens_ = 2048;  // set by a constructor
  int prefixes_ = 0;                                      // likewise
  bool sources_ = false;                                  // likewise
  std::filesystem::path scratch_;
  std::unique_ptr<Device> device_ = Device::Cpu(1);
  std::unique_ptr<Communicator> comm_ = MakeSelfCommunicator();
  std::unique_ptr<Engine> engine_;
  Tokenizer tokenizer_;
  const Log log_{true};
  ServerOptions options_;
  Caller caller_;
  std::unique_ptr<Server> server_;
};

}  // namespace duo
