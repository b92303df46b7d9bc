#include "launcher/serve/grpc/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#if __has_include(<grpcpp/impl/service_type.h>)
#include <grpcpp/impl/service_type.h>
#else
#include <grpcpp/impl/codegen/service_type.h>  // before gRPC 1.53
#endif

#include <condition_variable>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "launcher/serve/grpc/service.h"
#include "launcher/serve/ops/metrics.h"
#include "launcher/serve/sessions/engine_thread.h"
#include "launcher/serve/sessions/sessions.h"

namespace duo {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kMostClosures = 4096;

double SecondsSince(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> Credentials(const TlsFiles& tls) {
  if (!tls.on()) return grpc::InsecureServerCredentials();
  absl::StatusOr<std::string> certificate = ReadSmallFile(tls.certificate, "certificate");
  if (!certificate.ok()) return certificate.status();
  absl::StatusOr<std::string> key = ReadSmallFile(tls.key, "private key");
  if (!key.ok()) return key.status();
  grpc::SslServerCredentialsOptions options(tls.client_ca.empty()
                                                ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                                                : GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  if (!tls.client_ca.empty()) {
    absl::StatusOr<std::string> ca = ReadSmallFile(tls.client_ca, "clients' certificate authority");
    if (!ca.ok()) return ca.status();
    options.pem_root_certs = *ca;
  }
  options.pem_key_cert_pairs.push_back({*key, *certificate});
  return grpc::SslServerCredentials(options);
}

}  // namespace

// Destroyed last to first: the RPC server stops before what its calls use, the engine's thread before its sessions.
struct Server::State {
  ServerOptions options;
  Engine* engine = nullptr;
  const Log* log = nullptr;
  Tokenizer tokenizer;
  TokenSet tokens;
  std::unique_ptr<SessionStore> store;
  std::unique_ptr<Sessions> sessions;
  std::unique_ptr<Metrics> metrics;
  ServiceContext context;
  std::unique_ptr<EngineThread> thread;
  std::unique_ptr<grpc::Service> sessions_service, cluster_service;
  std::unique_ptr<grpc::Server> server;
  int port = 0;

  // Of the server. On the engine's thread, and null there until Start has handed it over: a call may come before.
  grpc::HealthCheckServiceInterface* health = nullptr;

  // The drain; on the engine's thread but for `drained`.
  enum class Phase { kServing, kFinishing, kSaving, kDone } phase = Phase::kServing;
  Clock::time_point drain_begun;
  double grace = 0;
  DrainResult result;
  std::vector<std::function<void(const DrainResult&)>> drain_waits;
  std::mutex mutex;
  std::condition_variable done;
  bool drained = false;

  Clock::time_point last_step = Clock::now(), last_update;

  absl::Status Listen();
  void BeginDrain(double grace_seconds, std::function<void(const DrainResult&)> then);
  void DrainOn();
  bool Step();
  void Tick();
  bool more = false;  // Tick left work
};

void Server::State::BeginDrain(double grace_seconds, std::function<void(const DrainResult&)> then) {
  if (phase == Phase::kDone) return then(result);
  drain_waits.push_back(std::move(then));
  if (phase != Phase::kServing) return;
  phase = Phase::kFinishing;
  drain_begun = Clock::now();
  grace = grace_seconds > 0 ? grace_seconds : options.grace_seconds;
  log->Event("draining", {{"grace_seconds", grace}});
  if (health != nullptr) health->SetServingStatus(false);
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
  if (phase != Phase::kServing) DrainOn();
  if (SecondsSince(last_update) > 0.25) {
    last_update = Clock::now();
    metrics->Update({engine->stats(), sessions->stats()});
  }
}

absl::Status Server::State::Listen() {
  absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> credentials = Credentials(options.tls);
  if (!credentials.ok()) return credentials.status();
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.AddListeningPort(options.listen, *credentials, &port);
  builder.SetMaxReceiveMessageSize(static_cast<int>(options.max_message_bytes));
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a second server on the port is an error, not a surprise
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 30000);  // notices clients that vanished
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 16384);
  builder.RegisterService(sessions_service.get());
  builder.RegisterService(cluster_service.get());
  server = builder.BuildAndStart();
  if (server == nullptr || (port == 0 && options.listen.rfind("unix:", 0) != 0)) {
    return absl::UnavailableError(absl::StrCat("--listen ", options.listen,
                                               ": cannot listen there (is the port taken, the address this machine's, "
                                               "the certificate and key a pair?)"));
  }
  return absl::OkStatus();
}

Server::Server() : state_(std::make_unique<State>()) {}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options, Engine& engine,
                                                      const Tokenizer& tokenizer, std::vector<int32_t> end_tokens,
                                                      const Log& log) {
  std::unique_ptr<Server> server(new Server());
  State& s = *server->state_;
  s.options = options;
  s.engine = &engine;
  s.log = &log;
  s.tokenizer = tokenizer;
  if (!options.token_file.empty()) {
    absl::StatusOr<TokenSet> tokens = TokenSet::Load(options.token_file);
    if (!tokens.ok()) return tokens.status();
    s.tokens = std::move(*tokens);
  }
  if (absl::Status e = CheckExposure(options.listen, options.tls.on(), !s.tokens.empty(), options.insecure); !e.ok()) {
    return e;
  }
  if (!options.metrics.empty() && !IsLoopback(options.metrics) && !options.insecure) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--metrics ", options.metrics, " can be reached from other machines without protection; --insecure allows it"));
  }
  if (!options.save_dir.empty()) {
    absl::StatusOr<std::unique_ptr<SessionStore>> store =
        SessionStore::Open(options.save_dir, options.model_dir, engine);
    if (!store.ok()) return store.status();
    s.store = std::move(*store);
  }
  absl::StatusOr<std::unique_ptr<Metrics>> metrics =
      Metrics::Start(options.metrics, RankKvOf(engine), engine.partition().balance);
  if (!metrics.ok()) return metrics.status();
  s.metrics = std::move(*metrics);

  const Tokenizer& t = s.tokenizer;
  SessionsOptions so;
  so.max_session_tokens = options.max_session_tokens;
  so.max_waiting = options.max_queue;
  so.checkpoint_tokens = options.checkpoint_tokens;
  so.idle_seconds = options.idle_seconds;
  so.begin_tokens = t.Encode("", EncodeOptions{});
  s.sessions = std::make_unique<Sessions>(so, engine, s.store.get(), log);
  s.sessions->Recover();

  ServiceContext& c = s.context;
  c.sessions = s.sessions.get();
  c.engine = &engine;
  c.tokenizer = &t;
  c.bearer_tokens = &s.tokens;
  c.metrics = s.metrics.get();
  c.log = &log;
  c.limits = {options.max_append_bytes, options.max_new_tokens};
  c.end_tokens = std::move(end_tokens);
  c.begin_tokens = so.begin_tokens;
  c.vocab = engine.config().vocab;
  c.model = options.model_dir;
  c.device = options.device;
  c.drain = [&s](double grace, std::function<void(const DrainResult&)> done) { s.BeginDrain(grace, std::move(done)); };
  s.sessions_service = MakeSessionsService(c);
  s.cluster_service = MakeClusterService(c);
  s.thread =
      std::make_unique<EngineThread>(EngineThread::Work{[&s] { return s.Step(); }, [&s] { s.Tick(); }}, kMostClosures);
  c.thread = s.thread.get();
  if (absl::Status e = s.Listen(); !e.ok()) {
    s.thread->Stop();
    s.drained = true;
    return e;
  }
  grpc::HealthCheckServiceInterface* health = s.server->GetHealthCheckService();
  health->SetServingStatus(true);
  health->SetServingStatus("duo.v1.Sessions", true);
  health->SetServingStatus("duo.v1.Cluster", true);
  s.thread->Urgent([&s, health] {
    s.health = health;
    if (s.phase != State::Phase::kServing) health->SetServingStatus(false);
  });
  log.Event("listening", {{"address", options.listen}, {"port", s.port}, {"tls", options.tls.on() ? "on" : "off"}});
  if (!options.metrics.empty()) log.Event("metrics", {{"address", options.metrics}, {"port", s.metrics->port()}});
  return server;
}

int Server::port() const { return state_->port; }

void Server::Drain() {
  state_->thread->Urgent([s = state_.get()] { s->BeginDrain(0, [](const DrainResult&) {}); });
}

void Server::Wait() {
  {
    std::unique_lock lock(state_->mutex);
    state_->done.wait(lock, [this] { return state_->drained; });
  }
  if (state_->server != nullptr) {
    // Answers that are on their way get a moment; what is left is cut off.
    state_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
    state_->server->Wait();
  }
  state_->thread->Stop();
}

Server::~Server() {
  if (state_->thread == nullptr) return;
  if (state_->server != nullptr) Drain();
  Wait();
}

}  // namespace duo
