// `duo serve`: the service. Rank 0 listens; the other ranks follow. TERM and INT drain it.

#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "kernels/base/seconds.h"
#include "launcher/made_up_model.h"
#include "launcher/serve/grpc/listener.h"
#include "launcher/serve/http/front.h"
#include "launcher/serve/server.h"
#include "launcher/serve_flags.h"
#include "launcher/stop_signals.h"
#include "launcher/surroundings.h"
#include "launcher/terminal/runtime_checks.h"
#include "launcher/terminal/service_manager.h"
#include "runtime/gguf/gguf_file.h"
#include "runtime/text/tokenizer_folder.h"
#include "runtime/weights/config.h"

namespace duo {
namespace {

// The model's name in answers: its folder's, or its file's without the ending.
std::string NameOf(const std::string& model_dir) {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::weakly_canonical(model_dir, error);
  if (IsGgufPath(model_dir)) return path.stem();
  return path.filename().empty() ? path.parent_path().filename() : path.filename();
}

constexpr double kLoadingLine = 5;  // seconds between lines that say how far it is

// What answers need of the model.
struct Model {
  std::unique_ptr<Engine> engine;
  Tokenizer tokenizer;
  std::vector<int32_t> stops;
};

std::string ModelOf(const ServeFlags& flags) {
  return flags.random_weights ? absl::StrCat("random weights of ", flags.shape) : flags.runtime.model;
}

// Of a model's folder, or made up. Followers (ranks but 0) get the engine alone. on_load: bytes of weights loaded, of
// how many.
absl::StatusOr<Model> LoadModel(const ServeFlags& flags, const Launch& launch, Runtime& runtime,
                                std::function<void(int64_t done, int64_t total)> on_load) {
  ProbeOptions options{MakeEngineOptions(flags.runtime, launch), std::nullopt, ""};
  if (flags.random_weights) {
    absl::StatusOr<ProbeOptions> made_up = MadeUpModel(flags.runtime, launch, flags.shape);
    if (!made_up.ok()) return made_up.status();
    options = *std::move(made_up);
  }
  options.on_load = std::move(on_load);
  options.sessions = flags.sessions;
  if (flags.http.address != kNone) ++options.sessions;  // an empty one, on whose forks lone prompts are answered
  options.questions = flags.questions;
  if (flags.http.address != kNone && flags.server.prefix_cache) options.prefixes = flags.prefix_nodes;
  options.provenance = flags.server.sources;
  options.measured = flags.server.measured;
  options.kv_tokens = flags.kv_tokens;
  options.max_session_tokens = flags.server.max_session_tokens;
  Model model;
  absl::StatusOr<std::unique_ptr<Engine>> engine = OpenEngine(flags.runtime, options, runtime);
  if (!engine.ok()) return engine.status();
  model.engine = *std::move(engine);
  if (!runtime.leader()) return model;
  const ModelConfig& config = model.engine->config();
  absl::StatusOr<Tokenizer> tokenizer =
      flags.random_weights ? MadeUpTokenizer(config.vocab) : LoadTokenizerOf(flags.runtime.model, config.vocab);
  if (!tokenizer.ok()) return tokenizer.status();
  model.tokenizer = *std::move(tokenizer);
  if (runtime.device->is_cuda()) {
    if (absl::Status s = model.engine->WarmUp(); !s.ok()) return s;
  }
  if (flags.random_weights) return model;  // nothing that it draws ends an answer
  absl::StatusOr<std::vector<int>> stops = StopTokens(flags.runtime.model, config);
  if (!stops.ok()) return stops.status();
  model.stops.assign(stops->begin(), stops->end());
  return model;
}

// The HTTP front, listening; null where --http is none. Before the model is loaded: a port that is taken costs nobody
// minutes.
absl::StatusOr<std::unique_ptr<HttpFront>> ListenHttp(const ServeFlags& flags, const std::string& commit,
                                                      const Log& log) {
  HttpOptions options = flags.http;
  if (options.address == kNone) return std::unique_ptr<HttpFront>();
  options.tls = flags.server.grpc.tls;
  options.commit = commit;
  options.saves = !flags.server.save_dir.empty();
  if (flags.access_log) options.access_log = &log;
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
  log.Warn("no HTTP", {{"reason", why}});  // nobody asked for this port: gRPC is served all the same
  return std::unique_ptr<HttpFront>();
}

// Where clients come to: on rank 0, from before the model is loaded until after the server has ended.
struct Fronts {
  std::unique_ptr<GrpcListener> grpc;
  std::unique_ptr<HttpFront> http;  // null: none

  absl::Status Listen(const ServeFlags& flags, const std::string& commit, const Log& log) {
    if (absl::Status s = Server::Check(flags.server); !s.ok()) return s;
    absl::StatusOr<std::unique_ptr<GrpcListener>> rpc = GrpcListener::Listen(flags.server.grpc);
    if (!rpc.ok()) return rpc.status();
    absl::StatusOr<std::unique_ptr<HttpFront>> front = ListenHttp(flags, commit, log);
    if (!front.ok()) return front.status();
    grpc = *std::move(rpc);
    http = *std::move(front);
    log.Event("loading", {{"address", flags.server.grpc.address}, {"port", grpc->port()}});
    return absl::OkStatus();
  }
  absl::Status Open(Server& server) {
    grpc->Open(server);
    return http == nullptr ? absl::OkStatus() : http->Open(server);
  }
  // Only when signals are heard: whoever waits for this line may send one at once.
  void Announce(const ServeFlags& flags, const Log& log) const {
    const char* tls = flags.server.grpc.tls.on() ? "on" : "off";
    log.Event("listening", {{"address", flags.server.grpc.address}, {"port", grpc->port()}, {"tls", tls}});
    if (http == nullptr) return;
    log.Event("listening for HTTP", {{"address", flags.http.address}, {"port", http->port()}, {"tls", tls}});
  }
  // Before the server is destroyed.
  void Close() {
    grpc = nullptr;
    if (http != nullptr) http->Stop();
  }
};

// What --log-level is by now, where the file of --config may say so.
Server::Prepare LevelAgain(const Settings& settings, Log& log) {
  return [&settings, &log]() -> absl::StatusOr<std::function<void()>> {
    const absl::StatusOr<std::optional<std::string>> text = settings.InFileNow("log-level");
    if (!text.ok()) return text.status();
    if (!text->has_value()) return [] {};
    const std::optional<LogLevel> level = LogLevelNamed((*text)->empty() ? ServeFlags().log_level : **text);
    if (level.has_value()) return [&log, level] { log.SetLevel(*level); };
    return absl::InvalidArgumentError(
        absl::StrCat("log-level: expected debug, info, warning or error, found ", **text));
  };
}

// Who tells the server what to do, and who hears of it.
struct Life {
  StopSignals& signals;
  Log& log;
  const ServiceManager& manager;
  const Settings& settings;
};

// Serves until it has drained.
absl::Status Serve(const ServeFlags& flags, const ServerOptions& options, Model& model, Fronts& fronts,
                   const Life& life) {
  absl::StatusOr<std::unique_ptr<Server>> server =
      Server::Make(options, *model.engine, model.tokenizer, model.stops, life.log);
  if (!server.ok()) return server.status();
  const absl::Cleanup close = [&] {
    life.signals.NothingFromNowOn();
    fronts.Close();
  };
  if (absl::Status s = fronts.Open(**server); !s.ok()) return s;
  (*server)->WhenReloading(LevelAgain(life.settings, life.log));
  (*server)->WhenDraining([&life] { life.manager.Stopping(); });
  (*server)->WhenServingOn([&life] { life.manager.Ready(); });
  life.signals.DrainsFromNowOn(server->get());  // what a HUP reads again is known by now
  fronts.Announce(flags, life.log);
  (*server)->Run();
  life.manager.Ready();
  return (*server)->Wait();
}

// One budget for all that arrives, by whichever transport.
void LimitUploads(ServeFlags& flags) {
  ServerOptions& s = flags.server;
  s.uploads = flags.http.uploads = std::make_shared<UploadBudget>(s.max_upload_bytes);
  s.grpc.messages_bytes = s.max_upload_bytes / 4;
  s.grpc.message_seconds = std::min(s.grpc.message_seconds, s.upload_seconds);
}

int RunServe(ServeFlags flags, const Launch& launch, const Surroundings& surroundings) {
  LimitUploads(flags);
  StopSignals::Block();
  signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is a write error like a full disk, not the end
  // Followers leave the signals to rank 0, which ends them when it has drained.
  const std::unique_ptr<StopSignals> signals = launch.rank == 0 ? std::make_unique<StopSignals>() : nullptr;
  Log log(flags.log == "json", 2, *LogLevelNamed(flags.log_level));
  if (flags.log == "json") {  // every line is one
    flags.runtime.tell = [&log](const std::string& text) { log.Event("note", {{"text", text}}); };
    GrpcListener::LogTo(&log);
  }
  const absl::Cleanup unheard = [] { GrpcListener::LogTo(nullptr); };
  // Other ranks end, too, and then mpirun signals this one, which has said already why.
  const auto fail = [&signals](const absl::Status& status, bool leader = true) {
    if (signals != nullptr) signals->NothingFromNowOn();
    return Fail(status, leader);
  };
  const ServiceManager manager(launch.rank == 0 ? surroundings.notify_socket : "");
  manager.Status("loading the model");
  Fronts fronts;
  if (launch.rank == 0) {  // what is wrong without a model is said before one is loaded
    if (absl::Status s = fronts.Listen(flags, surroundings.commit, log); !s.ok()) return fail(s);
  }
  absl::StatusOr<Runtime> runtime = OpenRuntime(flags.runtime, launch);
  if (!runtime.ok()) return fail(runtime.status(), launch.rank == 0);
  const auto on_load = [&fronts, &log, last = Clock::now()](int64_t done, int64_t total) mutable {
    if (fronts.grpc == nullptr || total <= 0) return;
    fronts.grpc->Loaded(static_cast<double>(done) / static_cast<double>(total));
    if (SecondsSince(last) < kLoadingLine) return;
    last = Clock::now();
    log.Event("loading weights", {{"bytes", done}, {"of", total}});
  };
  absl::StatusOr<Model> model = LoadModel(flags, launch, *runtime, on_load);
  if (!model.ok()) return fail(model.status(), runtime->leader());
  if (!runtime->leader()) {
    model->engine->Follow();
    return 0;
  }
  ServerOptions options = flags.server;
  options.model_dir = ModelOf(flags);
  options.commit = surroundings.commit;
  options.device = runtime->device->info().name;
  const MemoryPlan& memory = model->engine->memory_plan();
  if (options.max_session_tokens == 0) {
    options.max_session_tokens = std::min(MaxPositions(model->engine->config()), memory.kv_tokens);
  }
  log.Event("model loaded", {{"model", options.model_dir},
                             {"device", options.device},
                             {"ranks", runtime->comm->size()},
                             {"memory", Describe(memory)}});
  const PrefillSparsity& sparsity = model->engine->prefill_sparsity();
  if (sparsity.on()) {
    options.prefix_cache = false;  // a prompt would otherwise depend on what was read before it
    log.Event("SPARSE READING",
              {{"setting", Name(sparsity)}, {"note", "long texts are not read exactly; prompts share no prefixes"}});
  }
  if (const DecodeSparsity& decode = model->engine->decode_sparsity(); decode.on()) {
    log.Event("SPARSE WRITING", {{"setting", Name(decode)},
                                 {"note", "answers behind long texts are not written exactly, but kept ones are"}});
  }
  if (flags.random_weights) {
    log.Warn("RANDOM WEIGHTS",
             {{"shape", flags.shape}, {"note", "this server is for measuring load: what it answers means nothing"}});
  }
  const Life life = {*signals, log, manager, surroundings.settings};
  const absl::Status ended = Serve(flags, options, *model, fronts, life);
  return ended.ok() ? 0 : fail(ended);
}

}  // namespace

void AddServeCommand(CLI::App& app, Launch& launch, const Surroundings& surroundings) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* c = app.add_subcommand("serve", "Keep sessions and answer questions over gRPC and HTTP");
  c->footer(
      "Examples:\n"
      "  duo serve --model DIR --listen 127.0.0.1:50051 --save-dir /var/lib/duo\n"
      "  duo serve --model DIR --listen 0.0.0.0:50051 --tls-cert server.pem --tls-key server.key \\\n"
      "      --token-file tokens\n"
      "  duo serve --model DIR --http 127.0.0.1:8000      # then: curl http://127.0.0.1:8000/v1/models\n"
      "  duo serve --config /etc/duo/serve.toml --print-config\n"
      "  launcher/mpi/serve.sh 4 --model DIR --listen 127.0.0.1:50051 --save-dir /var/lib/duo\n"
      "TERM, INT and `duo client drain` finish what runs, save every session to --save-dir, and end the\n"
      "server; if one cannot be saved it serves on, and a second TERM ends it with exit code 1. HUP reads\n"
      "the token file, the certificates and log-level again. Under mpirun use launcher/mpi/serve.sh,\n"
      "which makes of TERM and INT the USR1 that mpirun passes on at once.");
  AddServeFlags(c, flags.get());
  c->callback([flags, c, &launch, &surroundings] {
    if (flags->print_config) {
      launch.chosen = [c, &launch, &surroundings] {
        if (launch.rank == 0) std::fputs(surroundings.settings.Printed(*c).c_str(), stdout);
        return 0;
      };
      return;
    }
    CheckServeFlags(*c, *flags);
    CheckRuntimeFlags(flags->runtime, launch);
    launch.chosen = [flags, &launch, &surroundings] { return RunServe(*flags, launch, surroundings); };
  });
}

}  // namespace duo
