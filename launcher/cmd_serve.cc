// `duo serve`: the service. Rank 0 listens; the other ranks follow. TERM and INT drain it.

#include <signal.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <optional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "launcher/bench/bench.h"
#include "launcher/made_up_model.h"
#include "launcher/serve/grpc/listener.h"
#include "launcher/serve/http/front.h"
#include "launcher/serve/server.h"
#include "launcher/terminal/checks.h"
#include "launcher/terminal/commands.h"
#include "launcher/terminal/runtime_flags.h"
#include "runtime/text/tokenizer_folder.h"
#include "runtime/weights/config.h"

namespace duo {
namespace {

constexpr char kNone[] = "none";  // --http: nothing listens

// The model's name in answers: its folder's.
std::string NameOf(const std::string& model_dir) {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::weakly_canonical(model_dir, error);
  return path.filename().empty() ? path.parent_path().filename() : path.filename();
}

struct ServeFlags {
  RuntimeFlags runtime;
  ServerOptions server;
  HttpOptions http;
  std::string log = "text";
  int sessions = 16, questions = 16;
  int64_t kv_tokens = 0;
  std::string shape;            // of made-up weights
  bool random_weights = false;  // instead of a model's
};

// What answers: of a model's folder, or made up.
struct Served {
  std::unique_ptr<Engine> engine;
  std::optional<Tokenizer> tokenizer;  // rank 0
  std::vector<int> stops;              // likewise
};

absl::Status OpenServed(const ServeFlags& flags, const Launch& launch, Runtime& runtime, Served* served) {
  ProbeOptions options{MakeEngineOptions(flags.runtime, launch), std::nullopt, 0};
  if (flags.random_weights) {
    absl::StatusOr<ProbeOptions> made_up = MadeUpModel(flags.runtime, launch, flags.shape);
    if (!made_up.ok()) return made_up.status();
    options = *std::move(made_up);
  }
  options.sessions = flags.sessions;
  if (flags.http.address != kNone) ++options.sessions;  // an empty one, on whose forks lone prompts are answered
  options.questions = flags.questions;
  options.kv_tokens = flags.kv_tokens;
  options.max_session_tokens = flags.server.max_session_tokens;
  absl::StatusOr<std::unique_ptr<Engine>> engine = OpenEngine(flags.runtime, options, runtime);
  if (!engine.ok()) return engine.status();
  served->engine = *std::move(engine);
  if (!runtime.leader()) return absl::OkStatus();
  const ModelConfig& config = served->engine->config();
  absl::StatusOr<Tokenizer> tokenizer =
      flags.random_weights ? MadeUpTokenizer(config.vocab) : LoadTokenizerOf(flags.runtime.model, config.vocab);
  if (!tokenizer.ok()) return tokenizer.status();
  served->tokenizer = *std::move(tokenizer);
  if (flags.random_weights) return absl::OkStatus();  // nothing that it draws ends an answer
  absl::StatusOr<std::vector<int>> stops = StopTokens(flags.runtime.model, config);
  if (!stops.ok()) return stops.status();
  served->stops = *std::move(stops);
  return absl::OkStatus();
}

std::string ModelOf(const ServeFlags& flags) {
  return flags.random_weights ? absl::StrCat("random weights of ", flags.shape) : flags.runtime.model;
}

// Takes TERM, INT, USR1 (which mpirun passes on at once) and HUP, which every other thread blocks. HUP reads tokens and
// certificates again. The others drain the server, from the second on whether all can be saved or not; while there is
// none yet they end the process; when it has drained they do nothing, for the process is ending.
class StopSignals {
 public:
  // Before any other thread is made: they inherit the mask.
  static void Block() {
    const sigset_t set = Set();
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
  }
  StopSignals() : thread_([this] { Run(); }) {}
  ~StopSignals() {
    stop_ = true;
    thread_.join();
  }
  void DrainsFromNowOn(Server* server) {
    std::lock_guard lock(mutex_);
    server_ = server;
    if (reload_) server_->Reload();
  }
  // The server may be destroyed when it returns.
  void NothingFromNowOn() {
    std::lock_guard lock(mutex_);
    server_ = nullptr;
    drained_ = true;
  }

 private:
  static sigset_t Set() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGHUP);
    return set;
  }
  void Run() {
    const sigset_t set = Set();
    const timespec wait = {0, 100'000'000};
    while (!stop_) {
      const int signal = sigtimedwait(&set, nullptr, &wait);
      if (signal < 0) continue;
      std::lock_guard lock(mutex_);
      if (signal == SIGHUP) {
        reload_ = server_ == nullptr;  // what it reads before it is ready may be older
        if (server_ != nullptr) server_->Reload();
      } else if (server_ != nullptr) {
        server_->Drain(stops_++ > 0);
      } else if (!drained_) {
        std::fprintf(stderr, "error: stopped by a signal before the server was ready\n");
        std::_Exit(1);
      }
    }
  }
  std::atomic<bool> stop_{false};
  std::mutex mutex_;  // guards what follows
  Server* server_ = nullptr;
  bool drained_ = false, reload_ = false;
  int stops_ = 0;
  std::thread thread_;
};

// The HTTP front, listening; null where --http is none. Before the model is loaded: a port that is taken costs nobody
// minutes.
absl::StatusOr<std::unique_ptr<HttpFront>> ListenHttp(const ServeFlags& flags, const Log& log) {
  HttpOptions options = flags.http;
  if (options.address == kNone) return std::unique_ptr<HttpFront>();
  options.tls = flags.server.grpc.tls;
  if (options.model_name.empty()) options.model_name = NameOf(ModelOf(flags));
  const bool tokens = !flags.server.token_file.empty();
  if (absl::Status s = CheckExposure("--http", options.address, options.tls.on(), tokens, flags.server.insecure);
      !s.ok()) {
    return s;
  }
  absl::StatusOr<std::unique_ptr<HttpFront>> front = HttpFront::Listen(options);
  if (front.ok() || !absl::IsUnavailable(front.status())) return front;
  const std::string why =
      absl::StrCat(front.status().message(), "; --http HOST:PORT takes another address, --http none serves gRPC alone");
  if (options.address != HttpOptions().address) return absl::UnavailableError(why);
  log.Event("no HTTP", {{"reason", why}});  // nobody asked for this port: gRPC is served all the same
  return std::unique_ptr<HttpFront>();
}

absl::Status CheckServing(const ServerOptions& options) {
  if (absl::Status s = Server::Check(options); !s.ok()) return s;
  return GrpcListener::Check(options.grpc);
}

int RunServe(const ServeFlags& flags, const Launch& launch) {
  StopSignals::Block();
  signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is a write error like a full disk, not the end
  // Followers leave the signals to rank 0, which ends them when it has drained.
  const std::unique_ptr<StopSignals> signals = launch.rank == 0 ? std::make_unique<StopSignals>() : nullptr;
  const Log log(flags.log == "json");
  absl::StatusOr<std::unique_ptr<HttpFront>> http;
  if (launch.rank == 0) {  // what is wrong without a model is said before one is loaded
    if (absl::Status s = CheckServing(flags.server); !s.ok()) return Fail(s);
    http = ListenHttp(flags, log);
    if (!http.ok()) return Fail(http.status());
  }
  absl::StatusOr<Runtime> runtime = OpenRuntime(flags.runtime, launch);
  if (!runtime.ok()) return Fail(runtime.status(), launch.rank == 0);
  Served served;
  if (absl::Status s = OpenServed(flags, launch, *runtime, &served); !s.ok()) return Fail(s, runtime->leader());
  Engine& engine = *served.engine;
  if (!runtime->leader()) {
    engine.Follow();
    return 0;
  }
  if (runtime->device->is_cuda()) {
    if (absl::Status s = engine.WarmUp(); !s.ok()) return Fail(s);
  }

  ServerOptions server_options = flags.server;
  server_options.model_dir = ModelOf(flags);
  server_options.device = runtime->device->info().name;
  if (server_options.max_session_tokens == 0) {
    server_options.max_session_tokens = std::min(MaxPositions(engine.config()), engine.memory_plan().kv_tokens);
  }
  log.Event("model loaded", {{"model", server_options.model_dir},
                             {"device", server_options.device},
                             {"ranks", runtime->comm->size()},
                             {"memory", Describe(engine.memory_plan())}});
  if (flags.random_weights) {
    log.Event("RANDOM WEIGHTS",
              {{"shape", flags.shape}, {"note", "this server is for measuring load: what it answers means nothing"}});
  }
  absl::StatusOr<std::unique_ptr<Server>> server = Server::Make(
      server_options, engine, *served.tokenizer, std::vector<int32_t>(served.stops.begin(), served.stops.end()), log);
  if (!server.ok()) return Fail(server.status());
  const ListenOptions& grpc = server_options.grpc;
  absl::StatusOr<std::unique_ptr<GrpcListener>> listener = GrpcListener::Listen(grpc, **server);
  if (!listener.ok()) return Fail(listener.status());
  signals->DrainsFromNowOn(server->get());
  log.Event("listening",
            {{"address", grpc.address}, {"port", (*listener)->port()}, {"tls", grpc.tls.on() ? "on" : "off"}});
  if (*http != nullptr) {
    if (absl::Status s = (*http)->Open(**server); !s.ok()) return Fail(s);
    log.Event("listening for HTTP",
              {{"address", flags.http.address}, {"port", (*http)->port()}, {"tls", grpc.tls.on() ? "on" : "off"}});
  }
  (*server)->Run();
  const absl::Status drained = (*server)->Wait();
  signals->NothingFromNowOn();
  if (*http != nullptr) (*http)->Stop();
  return drained.ok() ? 0 : Fail(drained);
}

void AddCallerFlags(CLI::App* c, ServeFlags* flags) {
  ServerOptions& s = flags->server;
  const char* callers = "Who may call";
  c->add_flag("--insecure", s.insecure, "Listen on a public address without TLS")->group(callers);
  auto* cert = c->add_option("--tls-cert", s.grpc.tls.certificate, "Certificate chain, PEM");
  auto* key = c->add_option("--tls-key", s.grpc.tls.key, "Its private key, PEM");
  cert->type_name("FILE")->group(callers)->needs(key);
  key->type_name("FILE")->group(callers)->needs(cert);
  c->add_option("--tls-client-ca", s.grpc.tls.client_ca, "Clients must show a certificate signed by these, PEM (mTLS)")
      ->type_name("FILE")
      ->group(callers)
      ->needs(cert);
  c->add_option("--cors-origin", flags->http.origins, "Pages of this origin may call over HTTP, *: all; repeatable")
      ->type_name("ORIGIN")
      ->group(callers);
  c->add_option(
       "--token-file", s.token_file,
       "Clients must send one of these bearer tokens; lines are TOKEN [NAME [ROLE]], roles user, admin and metrics")
      ->type_name("FILE")
      ->group(callers);
}

void AddKeepFlags(CLI::App* c, ServeFlags* flags) {
  ServerOptions& s = flags->server;
  const char* kept = "What is kept";
  c->add_option("--save-dir", s.save_dir,
                "Where sessions are saved; on tmpfs (/dev/shm/..) idle sessions move to host memory instead of disk")
      ->type_name("DIR")
      ->group(kept);
  c->add_option("--checkpoint-tokens", s.checkpoint_tokens, "Tokens between checkpoints of durable sessions")
      ->check(CLI::Range(int64_t{128}, int64_t{1} << 31))
      ->group(kept)
      ->capture_default_str();
  c->add_option("--idle-out", s.idle_seconds,
                "Move sessions out to --save-dir that were idle for so many seconds; 0: never")
      ->check(CLI::Range(0.0, 1e9))
      ->group(kept)
      ->capture_default_str();
  c->add_flag(
       "--take-over", s.take_over,
       "Servers of other hosts that hold sessions in --save-dir (a network file system) are gone: take theirs at "
       "once instead of half a minute after their last sign of life")
      ->group(kept);
  c->add_option("--grace", s.grace_seconds, "Seconds that running questions get when the server drains")
      ->check(CLI::Range(0.0, 86400.0))
      ->group(kept)
      ->capture_default_str();
}

void AddLimitFlags(CLI::App* c, ServeFlags* flags) {
  ServerOptions& s = flags->server;
  const char* limits = "Limits";
  c->add_option("--sessions", flags->sessions, "Sessions open at once")
      ->check(CLI::Range(1, 4096))
      ->group(limits)
      ->capture_default_str();
  c->add_option("--questions", flags->questions,
                "Questions open at once, each with rings of its own; of more than 256 the others wait without")
      ->check(CLI::Range(1, 1024))
      ->group(limits)
      ->capture_default_str();
  c->add_option("--max-session-tokens", s.max_session_tokens, "Length of a session at most; 0: the model's positions")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 31))
      ->group(limits)
      ->capture_default_str();
  c->add_option("--kv-tokens", flags->kv_tokens, "Tokens of KV cache in all; 0: what memory leaves")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->group(limits)
      ->capture_default_str();
  c->add_option("--max-wait", flags->runtime.max_wait,
                "Seconds that a step of a long append may take while other sessions are open: no short question waits "
                "longer for it (a step has at least 128 tokens)")
      ->check(CLI::Range(0.001, 3600.0))
      ->group(limits)
      ->capture_default_str();
  c->add_option("--max-gap", flags->runtime.max_gap,
                "Seconds between two tokens of an answer while documents are read beside: no step takes longer, unless "
                "the answers alone do; a read then has a fifth of the time (default 0.05 on CUDA, 0.25 on the CPU)")
      ->check(CLI::Range(0.001, 3600.0))
      ->group(limits);
  c->add_option("--max-queue", s.max_queue, "Calls that may wait or run at once; at least --questions unless given")
      ->check(CLI::Range(1, 100000))
      ->group(limits)
      ->capture_default_str();
  c->add_option("--max-message-bytes", s.grpc.max_message_bytes, "Size of a message at most")
      ->check(CLI::Range(int64_t{1024}, int64_t{1} << 30))
      ->group(limits)
      ->capture_default_str();
  c->add_option("--max-body", flags->http.max_body,
                "Size of an HTTP request's body at most; documents that are PUT have --max-append-bytes")
      ->check(CLI::Range(int64_t{1024}, int64_t{1} << 36))
      ->group(limits)
      ->capture_default_str();
  c->add_option("--max-append-bytes", s.max_append_bytes, "Text of one append at most")
      ->check(CLI::Range(int64_t{1024}, int64_t{1} << 36))
      ->group(limits)
      ->capture_default_str();
  c->add_option("--max-upload-bytes", s.max_upload_bytes, "Text of all appends at most that are arriving at once")
      ->check(CLI::Range(int64_t{1024}, int64_t{1} << 40))
      ->group(limits)
      ->capture_default_str();
  c->add_option("--upload-idle", s.upload_seconds, "Seconds after which an append that sends nothing is given up")
      ->check(CLI::Range(0.1, 1e9))
      ->group(limits)
      ->capture_default_str();
  c->add_option("--max-streams", s.grpc.max_streams, "Calls of one connection at once; more wait at the client")
      ->check(CLI::Range(1, 1000000))
      ->group(limits)
      ->capture_default_str();
  c->add_option("--max-new-tokens", s.max_new_tokens, "Length of an answer at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 31))
      ->group(limits)
      ->capture_default_str();
}

// A model or made-up weights; of these nothing is kept.
void CheckModel(const ServeFlags& flags) {
  if (!flags.random_weights) {
    if (!flags.shape.empty()) throw CLI::RequiresError("--shape", "--random-weights");
    if (flags.runtime.model.empty()) throw CLI::RequiredError("--model");
    return;
  }
  if (flags.shape.empty()) throw CLI::RequiresError("--random-weights", "--shape");
  if (const absl::Status s = ShapeNamed(flags.shape).status(); !s.ok()) {
    throw CLI::ValidationError(std::string(s.message()));
  }
  if (!flags.runtime.model.empty()) throw CLI::ExcludesError("--random-weights", "--model");
  if (!flags.server.save_dir.empty()) throw CLI::ExcludesError("--random-weights", "--save-dir");
}

}  // namespace

void AddServeCommand(CLI::App& app, Launch& launch) {
  auto flags = std::make_shared<ServeFlags>();
  ServerOptions& s = flags->server;
  CLI::App* c = app.add_subcommand("serve", "Keep sessions and answer questions over gRPC and HTTP");
  c->footer(
      "Examples:\n"
      "  duo serve --model DIR --listen 127.0.0.1:50051 --save-dir /var/lib/duo\n"
      "  duo serve --model DIR --listen 0.0.0.0:50051 --tls-cert server.pem --tls-key server.key \\\n"
      "      --token-file tokens\n"
      "  duo serve --model DIR --http 127.0.0.1:8000      # then: curl http://127.0.0.1:8000/v1/models\n"
      "  launcher/mpi/serve.sh 4 --model DIR --listen 127.0.0.1:50051 --save-dir /var/lib/duo\n"
      "TERM, INT and `duo client drain` finish what runs, save every session to --save-dir, and end the\n"
      "server; if one cannot be saved it serves on, and a second TERM ends it with exit code 1. HUP reads\n"
      "the token file and the certificates again. Under mpirun use launcher/mpi/serve.sh, which makes of\n"
      "TERM and INT the USR1 that mpirun passes on at once.");
  AddRuntimeFlags(*c, flags->runtime, /*model_required=*/false);
  c->add_option("--shape", flags->shape, absl::StrCat("With --random-weights, the model's sizes: ", ShapeNames()));
  c->add_flag(
      "--random-weights", flags->random_weights,
      "Serve made-up weights of --shape instead of a model, to measure load without a checkpoint; every byte of "
      "a text is a token, and what it answers means nothing");
  c->add_option("--listen", s.grpc.address, "Address; port 0 takes a free one")
      ->type_name("HOST:PORT")
      ->check(Address())
      ->capture_default_str();
  c->add_option("--http", flags->http.address,
                "Address of the HTTP API, which is OpenAI's and duo's own; port 0 takes a free one; none: gRPC alone")
      ->type_name("HOST:PORT|none")
      ->check(HttpAddress())
      ->capture_default_str();
  c->add_option("--model-name", flags->http.model_name, "The model's name in HTTP answers; the folder's unless given")
      ->type_name("NAME");
  c->add_option(
       "--http-comments", flags->http.comment_seconds,
       "Seconds between comments in a stream over HTTP that has nothing else to say, so that no client gives up "
       "while a long prompt is read; 0: none")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  c->add_option_function<std::string>(
       "--generation-config", [flags](const std::string& from) { flags->http.generation_config = from != kNone; },
       "What requests over HTTP leave out is drawn as the model's generation_config.json says; none: at temperature 1")
      ->check(CLI::IsMember({"auto", kNone}))
      ->default_str("auto");
  c->add_option("--metrics", s.metrics, "Serve metrics for Prometheus here, at /metrics")
      ->type_name("HOST:PORT")
      ->check(Address());
  c->add_option("--log", flags->log, "One line an event on stderr")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();

  AddCallerFlags(c, flags.get());
  AddKeepFlags(c, flags.get());
  AddLimitFlags(c, flags.get());
  c->callback([c, flags, &launch] {
    ServerOptions& s = flags->server;
    CheckModel(*flags);
    if (c->count("--max-queue") == 0) s.max_queue = std::max(s.max_queue, flags->questions);
    if (s.save_dir.empty() && s.idle_seconds > 0) throw CLI::RequiresError("--idle-out", "--save-dir");
    if (s.save_dir.empty() && s.take_over) throw CLI::RequiresError("--take-over", "--save-dir");
    if (flags->kv_tokens > 0 && s.max_session_tokens > flags->kv_tokens) {
      throw CLI::ValidationError(absl::StrCat("--max-session-tokens ", s.max_session_tokens,
                                              ": no session can be so long in --kv-tokens ", flags->kv_tokens));
    }
    launch.chosen = [flags, &launch] { return RunServe(*flags, launch); };
  });
}

}  // namespace duo
