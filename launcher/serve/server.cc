#include "launcher/serve/server.h"

#include <condition_variable>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "kernels/base/seconds.h"
#include "launcher/serve/ops/metrics.h"
#include "launcher/serve/sessions/engine_thread.h"
#include "launcher/serve/sessions/sessions.h"
#include "parallel/communicator.h"

namespace duo {
namespace {

constexpr int kMostClosures = 4096;

absl::Status CheckAddresses(const ServerOptions& options, bool tokens) {
  const ListenOptions& grpc = options.grpc;
  if (absl::Status s = CheckExposure("--listen", grpc.address, grpc.tls.on(), tokens, options.insecure); !s.ok())
    return s;
  if (options.metrics.empty() || IsLoopback(options.metrics) || options.insecure) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--metrics ", options.metrics, " can be reached from other machines without protection; --insecure allows it"));
}

}  // namespace

// Destroyed last to first: the engine's thread ends before the sessions that it works on.
struct Server::State {
  ServerOptions options;
  Engine* engine = nullptr;
  const Log* log = nullptr;
  Tokenizer tokenizer;
  TokenSet tokens;
  std::unique_ptr<SessionStore> store;
  std::unique_ptr<Sessions> sessions;
  std::unique_ptr<Metrics> metrics;
  CallContext context;
  std::unique_ptr<EngineThread> thread;
  std::unique_ptr<GuideCompiler> guides;
  bool running = false;

  // The drain; on the engine's thread but for `drained`.
  enum class Phase { kServing, kFinishing, kSaving, kDone } phase = Phase::kServing;
  Clock::time_point drain_begun;
  double grace = 0;
  DrainResult result;
  std::vector<std::function<void()>> drain_tells;
  std::vector<std::function<void(const DrainResult&)>> drain_waits;
  std::mutex mutex;
  std::condition_variable done;
  bool drained = false;

  Clock::time_point last_step = Clock::now(), last_update;
  bool more = false;  // Tick left work

  absl::Status Open(const ServerOptions& options);
  void MakeContext(std::vector<int32_t> end_tokens);
  void BeginDrain(double grace_seconds, std::function<void(const DrainResult&)> then);
  void DrainOn();
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
  log->Event("draining", {{"grace_seconds", grace}});
  context.state.draining = true;
  for (auto& tell : drain_tells) tell();
  sessions->StartDraining();
}

// One look at how far the drain is.
void Server::State::DrainOn() {
  if (phase == Phase::kFinishing) {
    if (SecondsSince(drain_begun) > grace && sessions->stats().calls > 0) {
      result.cancelled += sessions->stats().calls;
      sessions->CancelAll();
    }
    if (!sessions->Quiet()) return;
    result.saved = sessions->SaveAll();
    phase = Phase::kSaving;
  }
  if (phase != Phase::kSaving || !sessions->Quiet()) return;
  phase = Phase::kDone;
  result.seconds = SecondsSince(drain_begun);
  log->Event("drained", {{"saved", result.saved}, {"cancelled", result.cancelled}, {"seconds", result.seconds}});
  for (auto& wait : drain_waits) wait(result);
  drain_waits.clear();
  std::lock_guard lock(mutex);
  drained = true;
  done.notify_all();
}

bool Server::State::Step() {
  const bool stepped = engine->Step();
  if (stepped) {
    last_step = Clock::now();
    const EngineStats stats = engine->stats();
    metrics->ObserveStep(stats.last_step_prefill, stats.last_step_seconds);
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
    metrics->Update({stats, sessions->stats()});
  }
}

absl::Status Server::State::Open(const ServerOptions& o) {
  options = o;
  if (!o.token_file.empty()) {
    absl::StatusOr<TokenSet> loaded = TokenSet::Load(o.token_file);
    if (!loaded.ok()) return loaded.status();
    tokens = std::move(*loaded);
  }
  if (absl::Status s = CheckAddresses(o, !tokens.empty()); !s.ok()) return s;
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
      Metrics::Start(o.metrics, RankKvOf(*engine), engine->partition().balance);
  if (!started.ok()) return started.status();
  metrics = std::move(*started);

  SessionsOptions so;
  so.max_session_tokens = o.max_session_tokens;
  so.max_waiting = o.max_queue;
  so.checkpoint_tokens = o.checkpoint_tokens;
  so.idle_seconds = o.idle_seconds;
  absl::StatusOr<std::vector<int32_t>> begin_tokens = tokenizer.Encode("", EncodeOptions{});
  if (!begin_tokens.ok()) return begin_tokens.status();
  so.begin_tokens = *std::move(begin_tokens);
  sessions = std::make_unique<Sessions>(so, *engine, store.get(), *log);
  thread =
      std::make_unique<EngineThread>(EngineThread::Work{[this] { return Step(); }, [this] { Tick(); }}, kMostClosures);
  const auto tell = [t = thread.get()] { t->Urgent([] {}); };  // what waited for a disk goes on
  engine->TellIo(tell);
  if (store != nullptr) store->Tell(tell);
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
  c.bearer_tokens = &tokens;
  c.metrics = metrics.get();
  c.log = log;
  c.limits = {options.max_append_bytes, options.max_new_tokens};
  c.end_tokens = std::move(end_tokens);
  c.begin_tokens = sessions->options().begin_tokens;
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

void Server::Drain() {
  state_->thread->Urgent([s = state_.get()] { s->BeginDrain(0, [](const DrainResult&) {}); });
}

void Server::Wait() {
  std::unique_lock lock(state_->mutex);
  state_->done.wait(lock, [this] { return state_->drained; });
}

Server::~Server() {
  if (state_->running) {
    Drain();
    Wait();
    state_->thread->Stop();
  }
  state_->engine->TellIo(nullptr);
  if (state_->store != nullptr) state_->store->Tell(nullptr);
}

}  // namespace duo
