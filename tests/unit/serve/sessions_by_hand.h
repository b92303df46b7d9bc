// Sessions without a thread: the test takes each step of the engine and of the
// store.
#pragma once

#include <set>
#include <string>
#include <utility>

#include "tests/unit/serve/service_fixture.h"

namespace duo {

class SessionsByHand : public ServiceFixture {
 protected:
  void SetUp() override {
    ServiceFixture::SetUp();
    auto store = SessionStore::Open(scratch_.string(), model_, *engine_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = std::move(*store);
    Open();
  }
  void TearDown() override {
    sessions_ = nullptr;
    store_ = nullptr;
    ServiceFixture::TearDown();
  }
  // As after a restart: what was open before is gone.
  void Open(double idle_seconds = 0) {
    SessionsOptions options;
    options.max_session_tokens = max_session_tokens_;
    options.checkpoint_tokens = 128;
    options.idle_seconds = idle_seconds;
    options.prefixes = prefixes_ > 0;
    options.prefix_disk = prefix_disk_;
    options.sources = sources_;
    options.tokenizer = &tokenizer_;
    options.chat = &chat_;
    if (beside_) {
      options.beside = [this](size_t, std::function<void()> work, std::function<void()> back) {
        texts_.push_back([work, back] {
          work();
          back();
        });
        return true;
      };
    }
    options.watch.on_place = [this](Place from, Place to) { places_.insert({from, to}); };
    options.watch.on_append = [this](AppendPhase from, AppendPhase to) { phases_.insert({from, to}); };
    for (const SessionInfo& session : engine_->List()) ASSERT_TRUE(engine_->CloseSession(session.id).ok());
    sessions_ = std::make_unique<Sessions>(options, *engine_, store_.get(), log_);
    sessions_->Recover();
  }
  void Run() {
    bool more = true;
    while (more) {
      more = sessions_->Tick();
      more = engine_->Step() || more;
    }
  }
  // The texts that wait to become tokens do, where beside_ is set.
  void RunBeside() {
    for (auto& text : std::exchange(texts_, {})) text();
  }
  std::vector<int32_t> Tokens(int count) const {
    std::vector<int32_t> tokens(count);
    for (int i = 0; i < count; ++i) tokens[i] = 10 + i % 50;
    return tokens;
  }
  // Begins an append; its end comes into `ended`.
  CallPtr Append(const std::string& id, const std::string& append_id, int tokens) {
    auto call = std::make_shared<Call>();
    absl::StatusOr<Sessions::Opened> opened = sessions_->OpenAppend(id, append_id);
    EXPECT_TRUE(opened.ok()) << opened.status();
    ended_.reset();
    AppendEvents events;
    events.on_done = [this](const AppendDone& done) { ended_ = done.status; };
    sessions_->ReadAppend(call, {id, append_id, Tokens(tokens), 4 * tokens}, std::move(events));
    return call;
  }
  absl::Status Save(const std::string& id) {
    absl::Status status = absl::UnknownError("not done");
    sessions_->Save(std::make_shared<Call>(), id, [&](const SaveDone& done) { status = done.status; });
    Run();
    return status;
  }
  absl::Status CloseNow(const std::string& id, bool delete_saved = false) {
    absl::Status status = absl::UnknownError("not done");
    sessions_->Close(id, delete_saved, [&](const absl::Status& closed) { status = closed; });
    Run();
    return status;
  }
  absl::Status Reread(const std::string& id) {
    absl::Status status = absl::UnknownError("not done");
    sessions_->Reread(std::make_shared<Call>(), id, "", 0, [&](const SaveDone& done) { status = done.status; });
    Run();
    return status;
  }
  void Rewind(const std::string& id, int64_t tokens) {
    sessions_->Rewind(std::make_shared<Call>(), id, tokens,
                      [](const absl::StatusOr<SessionView>& view) { EXPECT_TRUE(view.ok()) << view.status(); });
    Run();
  }
  struct Asked {
    CallPtr call = std::make_shared<Call>();
    int64_t tokens = 0, history = -1;
    std::optional<absl::Status> ended;
  };
  // Begins a question; it must outlive what it is given.
  void Ask(const std::string& id, int64_t new_tokens, Asked* asked) {
    AskEvents events;
    events.on_token = [asked](int32_t) {
      ++asked->tokens;
      return true;
    };
    events.on_done = [asked](const RequestResult& result, int64_t history) {
      asked->ended = result.status;
      asked->history = history;
    };
    GenerateParams params;
    params.max_new_tokens = new_tokens;
    sessions_->Ask(asked->call, id, {5}, params, std::move(events));
  }
  absl::Status AskNow(const std::string& id) {
    Asked asked;
    Ask(id, 1, &asked);
    Run();
    return asked.ended.value_or(absl::UnknownError("not done"));
  }
  // Until it is on disk alone; the sessions were opened with an idle time.
  void WaitUntilMovedOut(const std::string& id) {
    for (int i = 0; i < 1000 && sessions_->Get(id)->residence == Residence::kOpen; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      Run();
    }
    ASSERT_EQ(sessions_->Get(id)->residence, Residence::kMovedOut);
  }

  absl::StatusOr<ChatTemplate> chat_ = absl::NotFoundError("none");
  int64_t prefix_disk_ = 0;
  bool beside_ = false;  // texts become tokens in RunBeside; before Open
  std::vector<std::function<void()>> texts_;
  std::unique_ptr<SessionStore> store_;
  std::unique_ptr<Sessions> sessions_;
  std::optional<absl::Status> ended_;
  std::set<std::pair<Place, Place>> places_;
  std::set<std::pair<AppendPhase, AppendPhase>> phases_;
};

}  // namespace duo
