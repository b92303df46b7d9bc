#include "launcher/serve/server.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/seconds.h"
#include "launcher/serve/ops/metrics.h"
#include "launcher/serve/sessions/engine_thread.h"
#include "launcher/serve/sessions/sessions.h"
#include "launcher/serve/start_checks.h"
#include "launcher/serve/trace/span_sender.h"
#include "launcher/terminal/version.h"
#include "parallel/communicator.h"

namespace duo {
namespace {

constexpr int kMostClosures = 4096;
constexpr double kSlowLines = 10;  // seconds between two lines that say so
constexpr int kTokenisers = 3;     // threads, of which long texts take all but one

// Bytes of text that one token stands for at most: the longest spelling, which has no byte less than the text. Whether
// normalisation shortened the text before is not known, so it counts four times.
int64_t MostBytesOfAToken(const Tokenizer& tokenizer) {
  size_t longest = 1;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) longest = std::max(longest, tokenizer.TextOf(id).size());
  return 4 * static_cast<int64_t>(longest);
}

// What of a drain is not on disk; OK where everything is.
absl::Status Unsaved(const Sessions::SavedAll& all) {
  if (all.failed.empty()) return absl::OkStatus();
  std::string text;
  for (const auto& [id, status] : all.failed) {
    absl::StrAppend(&text, text.empty() ? "" : "; ", id, " (", status.message(), ")");
  }
  return absl::FailedPreconditionError(
      absl::StrCat("not on disk, of ", all.failed.size() + all.saved,
                   all.failed.size() + all.saved == 1 ? " session: " : " sessions: ", text));
}

}  // namespace

// Destroyed last to first: the engine's thread ends before the sessions that it works on.
struct Server::State {
  ServerOptions options;
  Engine* engine = nullptr;
  const Log* log = nullptr;
  Tokenizer tokenizer;
  absl::StatusOr<ChatTemplate> chat = absl::UnavailableError("the model is loading");
  std::unique_ptr<TokenFile> tokens;
  std::unique_ptr<SessionStore> store;
  std::unique_ptr<Sessions> sessions;
  std::unique_ptr<Metrics> metrics;
  std::unique_ptr<SpanSender> spans;
  CallContext context;
  std::unique_ptr<Sender> sender;
  std::unique_ptr<EngineThread> thread;
  std::unique_ptr<GuideCompiler> guides;
  std::unique_ptr<Workers> workers;  // they post to the engine's thread
  bool running = false;

  // The drain; on the engine's thread but for `drained`.
  enum class Phase { kServing, kFinishing, kSaving, kDone } phase = Phase::kServing;
  Clock::time_point drain_begun;
  double grace = 0;
  bool forced = false;     // what cannot be saved is given up
  bool cut_short = false;  // its grace is over, and what ran then is counted
  DrainResult result;
  std::vector<std::function<void()>> drain_tells, serve_tells;
  std::vector<Server::Prepare> prepares;
  std::vector<std::function<void(const DrainResult&)>> drain_waits;
  std::mutex mutex;
  std::condition_variable done;
  bool drained = false;

  Clock::time_point last_step = Clock::now(), last_update, last_slow;
  int64_t slow_untold = 0;
  bool more = false;  // Tick left work

  absl::Status Open(const ServerOptions& options);
  void MakeContext(std::vector<int32_t> end_tokens);
  void BeginDrain(double grace_seconds, std::function<void(const DrainResult&)> then);
  void DrainOn();
  void LogDropped();
  void Reload();
  void TellSlow(const EngineStats& counted);
  void TellStep(const EngineStats& counted);
  bool Step();
  void Tick();
};

void Server::State::BeginDrain(double grace_seconds, std::function<void(const DrainResult&)> then) {
  if (phase == Phase::kDone) return then(result);
  drain_waits.push_back(std::move(then));
  if (phase != Phase::kServing) return;
  phase = Phase::kFinishing;
  drain_begun = Clock::now();
  grace = grace_seconds > 0 ? grace_seconds : options.grace_seconds;
  cut_short = false;
  result = {};
  log->Event("draining", {{"grace_seconds", grace}});
  context.state.draining = true;
  for (auto& tell : drain_tells) tell();
  sessions->StartDraining();
}

// One look at how far the drain is.
void Server::State::DrainOn() {
  if (phase == Phase::kFinishing) {
    if (SecondsSince(drain_begun) > grace && sessions->stats().calls > 0) {
      const int cancelled = sessions->CancelAll();  // also those that the last look could not end at once
      if (!std::exchange(cut_short, true)) result.cancelled = cancelled;
    }
    if (!sessions->Quiet()) return;
    sessions->SaveAll();
    phase = Phase::kSaving;
  }
  if (phase != Phase::kSaving || !sessions->Quiet()) return;
  result.seconds = SecondsSince(drain_begun);
  result.saved = sessions->saved_all().saved;
  result.status = Unsaved(sessions->saved_all());
  const bool over = result.status.ok() || forced;
  phase = over ? Phase::kDone : Phase::kServing;
  if (!over) {  // before a line says so
    context.state.draining = false;
    sessions->StopDraining();
    for (auto& tell : serve_tells) tell();
  }
  if (over && store == nullptr) {
    LogDropped();
  } else if (result.status.ok()) {
    log->Event("drained", {{"saved", result.saved}, {"cancelled", result.cancelled}, {"seconds", result.seconds}});
  } else {
    log->Warn("drain failed", {{"saved", result.saved}, {"status", std::string(result.status.message())}});
  }
  for (auto& wait : std::exchange(drain_waits, {})) wait(result);
  if (!over) return;
  std::lock_guard lock(mutex);
  drained = true;
  done.notify_all();
}

// Without a directory they end with the server: their names are what can still be kept.
void Server::State::LogDropped() {
  result.dropped = sessions->List();
  for (const SessionView& dropped : result.dropped) {
    log->Warn("session dropped", {{"session", dropped.id}, {"tokens", dropped.tokens}});
  }
  log->Event("stopped", {{"dropped", static_cast<int64_t>(result.dropped.size())},
                         {"cancelled", result.cancelled},
                         {"seconds", result.seconds}});
}

// Answers waited longer for a step than --max-gap, because of what ran in it.
void Server::State::TellSlow(const EngineStats& counted) {
  const bool slow = counted.last_step_answers > 0 && counted.last_step_seconds > counted.max_gap;
  if (!slow || SecondsSince(last_slow) < kSlowLines) {
    slow_untold += slow;
    return;
  }
  last_slow = Clock::now();
  log->Warn("slow", {{"gap_seconds", counted.last_step_seconds},
                     {"max_gap_seconds", counted.max_gap},
                     {"answers", counted.last_step_answers},
                     {"answers_alone_seconds", counted.last_step_rows},
                     {"read_tokens", counted.last_step_chunk},
                     {"more_since_last_line", std::exchange(slow_untold, 0)}});
}

void Server::State::TellStep(const EngineStats& counted) {
  log->Debug("step", {{"number", counted.steps},
                      {"seconds", counted.last_step_seconds},
                      {"sequences", counted.last_step_batch},
                      {"answers", counted.last_step_answers},
                      {"read_tokens", counted.last_step_chunk},
                      {"running", counted.running},
                      {"waiting", counted.waiting}});
}

bool Server::State::Step() {
  const bool stepped = engine->Step();
  if (stepped) {
    last_step = Clock::now();
    metrics->ObserveStep(engine->counted());
    TellSlow(engine->counted());
    if (log->Has(LogLevel::kDebug)) TellStep(engine->counted());
  } else if (SecondsSince(last_step) > kHeartbeatSeconds) {
    engine->KeepAlive();
    last_step = Clock::now();
  }
  return stepped || more;
}

void Server::State::Tick() {
  more = sessions->Tick();
  context.state.Beat();
  if (phase != Phase::kServing) DrainOn();
  if (SecondsSince(last_update) > 0.25) {
    last_update = Clock::now();
    const EngineStats stats = engine->stats();
    context.state.wait_seconds = stats.predicted_wait;
    metrics->Update({stats, sessions->stats(), phase != Phase::kServing});
  }
}

absl::Status Server::State::Open(const ServerOptions& o) {
  options = o;
  absl::StatusOr<std::unique_ptr<TokenFile>> loaded = TokenFile::Open(o.token_file);
  if (!loaded.ok()) return loaded.status();
  tokens = *std::move(loaded);
  if (absl::Status s = CheckAddresses(o); !s.ok()) return s;
  if (!o.save_dir.empty()) {
    StoreOptions so;
    so.lease.take_over = o.take_over;
    so.files = o.files;
    so.threaded = true;
    absl::StatusOr<std::unique_ptr<SessionStore>> opened =
        SessionStore::Open(o.save_dir, o.model_dir, *engine, std::move(so));
    if (!opened.ok()) return opened.status();
    store = std::move(*opened);
  }
  absl::StatusOr<std::unique_ptr<Metrics>> started =
      Metrics::Start(o.metrics, RankKvOf(*engine), engine->partition().balance, o.commit);
  if (!started.ok()) return started.status();
  metrics = std::move(*started);
  if (!o.otlp_endpoint.empty()) {
    absl::StatusOr<std::unique_ptr<SpanSender>> made = SpanSender::Make(
        o.otlp_endpoint, {{"service.version", kVersion}, {"duo.model", o.model_dir}, {"duo.device", o.device}}, *log);
    if (!made.ok()) return made.status();
    spans = std::move(*made);
  }

  SessionsOptions so;
  so.max_session_tokens = o.max_session_tokens;
  so.max_waiting = o.max_queue;
  so.caller = o.caller;
  so.checkpoint_tokens = o.checkpoint_tokens;
  so.max_upload_bytes = o.max_upload_bytes;
  so.uploads = o.uploads;
  so.upload_seconds = o.upload_seconds;
  so.idle_seconds = o.idle_seconds;
  so.prefixes = o.prefix_cache;
  so.share_prefixes = o.share_prefixes;
  so.prefix_disk = o.prefix_disk;
  if (!o.measured) so.disk_rate = Sessions::kDiskRate;
  so.sources = o.sources;
  absl::StatusOr<std::vector<int32_t>> begin_tokens = tokenizer.Encode("", EncodeOptions{});
  if (!begin_tokens.ok()) return begin_tokens.status();
  so.begin_tokens = *std::move(begin_tokens);
  so.tokenizer = &tokenizer;
  chat = ChatTemplateFor(o.model_dir);
  so.chat = &chat;
  so.beside = [this](size_t bytes, std::function<void()> work, std::function<void()> back) {
    return workers->Post(bytes, [this, work = std::move(work), back = std::move(back)]() mutable {
      work();
      thread->Urgent(std::move(back));
    });
  };
  sessions = std::make_unique<Sessions>(so, *engine, store.get(), *log);
  thread =
      std::make_unique<EngineThread>(EngineThread::Work{[this] { return Step(); }, [this] { Tick(); }}, kMostClosures);
  const auto tell = [t = thread.get()] { t->Urgent([] {}); };  // what waited for a disk goes on
  engine->TellIo(tell);
  if (store != nullptr) store->Tell(tell);
  workers = std::make_unique<Workers>(kTokenisers, o.max_queue);
  sender = std::make_unique<Sender>();
  return absl::OkStatus();
}

void Server::State::MakeContext(std::vector<int32_t> end_tokens) {
  guides = std::make_unique<GuideCompiler>(tokenizer, engine->config().vocab);
  CallContext& c = context;
  c.thread = thread.get();
  c.guides = guides.get();
  c.sessions = sessions.get();
  c.engine = engine;
  c.tokenizer = &tokenizer;
  c.bearer_tokens = tokens.get();
  c.workers = workers.get();
  c.sender = sender.get();
  c.token_bytes = MostBytesOfAToken(tokenizer);
  c.metrics = metrics.get();
  c.log = log;
  c.spans = spans.get();
  c.limits = {options.max_append_bytes, options.max_new_tokens, options.grpc.max_message_bytes};
  c.sources = {options.sources, engine->heads().sink};
  c.end_tokens = std::move(end_tokens);
  c.begin_tokens = sessions->options().begin_tokens;
  if (chat.ok() && chat->status().ok()) {
    if (const std::optional<int32_t> token = chat->EndOfTurn(tokenizer)) c.end_of_turn = {*token};
  }
  c.vocab = engine->config().vocab;
  c.model = options.model_dir;
  c.device = options.device;
  c.drain = [this](double grace_seconds, std::function<void(const DrainResult&)> then) {
    BeginDrain(grace_seconds, std::move(then));
  };
}

Server::Server() : state_(std::make_unique<State>()) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Make(const ServerOptions& options, Engine& engine,
                                                     const Tokenizer& tokenizer, std::vector<int32_t> end_tokens,
                                                     const Log& log) {
  std::unique_ptr<Server> server(new Server());
  State& s = *server->state_;
  s.engine = &engine;
  s.log = &log;
  s.tokenizer = tokenizer;
  if (absl::Status status = s.Open(options); !status.ok()) return status;
  s.MakeContext(std::move(end_tokens));
  return server;
}

CallContext& Server::context() { return state_->context; }

void Server::Run() {
  state_->sessions->Recover();
  state_->running = true;
  if (!state_->options.metrics.empty()) {
    state_->log->Event("metrics", {{"address", state_->options.metrics}, {"port", state_->metrics->port()}});
  }
  state_->thread->Start();
}

void Server::WhenDraining(std::function<void()> tell) { state_->drain_tells.push_back(std::move(tell)); }

void Server::WhenServingOn(std::function<void()> tell) { state_->serve_tells.push_back(std::move(tell)); }
void Server::WhenReloading(Prepare prepare) { state_->prepares.push_back(std::move(prepare)); }

void Server::Drain(bool forced) {
  state_->thread->Urgent([s = state_.get(), forced] {
    s->forced |= forced;
    s->BeginDrain(0, [](const DrainResult&) {});
  });
}

void Server::State::Reload() {
  std::vector<std::function<void()>> take;
  for (size_t i = 0; i <= prepares.size(); ++i) {
    absl::StatusOr<std::function<void()>> prepared = i == 0 ? tokens->Prepare() : prepares[i - 1]();
    if (!prepared.ok()) {
      return log->Error("not reloaded",
                        {{"status", absl::StrCat(prepared.status().message(), "; all stays as it was")}});
    }
    take.push_back(*std::move(prepared));
  }
  for (auto& one : take) one();
  log->Answer("reloaded", {{"tokens", static_cast<int64_t>(tokens->tokens()->size())}});
}

void Server::Reload() { state_->Reload(); }

absl::Status Server::Wait() {
  std::unique_lock lock(state_->mutex);
  state_->done.wait(lock, [this] { return state_->drained; });
  return state_->result.status;
}

Server::~Server() {
  if (state_->running) {
    Drain(true);
    Wait().IgnoreError();
    state_->workers = nullptr;  // what they still post is answered
    state_->thread->Stop();
  }
  state_->sender = nullptr;  // what is still to be sent is sent
  state_->engine->TellIo(nullptr);
  if (state_->store != nullptr) state_->store->Tell(nullptr);
}

}  // namespace duo
