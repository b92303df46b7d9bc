#include "launcher/serve_flags.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "launcher/bench/bench.h"
#include "launcher/serve/trace/span_sender.h"
#include "launcher/terminal/checks.h"

namespace duo {
namespace {

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
      ->transform(TokensWithUnit())
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
  c->add_option_function<std::string>(
       "--prefix-cache", [flags](const std::string& value) { flags->server.prefix_cache = value == "on"; },
       "Prompts over HTTP are read only from where they part from what is in the cache: earlier prompts, open "
       "sessions, "
       "reads under way of the same caller. What they leave gives way to whatever needs its room")
      ->check(CLI::IsMember({"on", "off"}))
      ->group(kept)
      ->default_str("on");
  c->add_option("--prefix-nodes", flags->prefix_nodes,
                "Places that prompts leave at once to go on from, each with rings of its own, like a session")
      ->check(CLI::Range(1, 4096))
      ->group(kept)
      ->capture_default_str();
  c->add_option("--prefix-disk", s.prefix_disk,
                "Bytes in --save-dir for what prompts leave, where reading it again would take longer than bringing it "
                "back; so it outlives the server. 0: none")
      ->type_name("BYTES")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 60))
      ->group(kept)
      ->capture_default_str();
  c->add_option_function<std::string>(
       "--step-times", [flags](const std::string& value) { flags->server.measured = value == "measured"; },
       "How long steps and disks take, by which it is chosen where a prompt goes on and how much is read at once: as "
       "measured, or guessed once, so that the same calls in the same order are served in the same way each time")
      ->check(CLI::IsMember({"measured", "guessed"}))
      ->group(kept)
      ->default_str("measured");
  c->add_flag("--share-prefixes", s.share_prefixes,
              "Prompts also go on where other callers' agree with them. Who measures how fast an answer comes can then "
              "find out what others have sent; cache_salt in a request keeps it apart")
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
      ->transform(TokensWithUnit(true))
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 31))
      ->group(limits)
      ->capture_default_str();
  c->add_option("--kv-tokens", flags->kv_tokens, "Tokens of KV cache in all; 0: what memory leaves")
      ->transform(TokensWithUnit(true))
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
  c->add_option("--max-caller-queue", s.caller.calls,
                "Calls of one caller that may wait or run at once; 0: no limit of its own")
      ->check(CLI::Range(0, 100000))
      ->group(limits)
      ->capture_default_str();
  c->add_option("--max-caller-sessions", s.caller.sessions,
                "Sessions of one caller at once, open or moved out; 0: no limit")
      ->check(CLI::Range(0, 100000))
      ->group(limits)
      ->capture_default_str();
  c->add_option("--max-caller-tokens", s.caller.tokens, "Tokens that one caller's open sessions hold; 0: no limit")
      ->transform(TokensWithUnit(true))
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
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
  c->add_option("--max-upload-bytes", s.max_upload_bytes,
                "What all uploads together may hold: texts of appends that are arriving and bodies of HTTP requests; "
                "gRPC messages on their way may have a quarter of it beside")
      ->check(CLI::Range(int64_t{1024}, int64_t{1} << 40))
      ->group(limits)
      ->capture_default_str();
  c->add_option(
       "--upload-idle", s.upload_seconds,
       "Seconds after which an append that sends nothing is given up; a single gRPC message that is not whole by "
       "then, or after 30 seconds, too")
      ->check(CLI::Range(0.1, 1e9))
      ->group(limits)
      ->capture_default_str();
  c->add_option("--reader-idle", flags->http.reader_seconds,
                "Seconds after which a client that takes nothing of its answer over HTTP is dropped")
      ->check(CLI::Range(0.1, 1e9))
      ->group(limits)
      ->capture_default_str();
  c->add_option("--max-streams", s.grpc.max_streams, "Calls of one connection at once; more wait at the client")
      ->check(CLI::Range(1, 1000000))
      ->group(limits)
      ->capture_default_str();
  c->add_option("--max-new-tokens", s.max_new_tokens, "Length of an answer at most")
      ->transform(TokensWithUnit())
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

void AddServeFlags(CLI::App* c, ServeFlags* flags) {
  ServerOptions& s = flags->server;
  AddRuntimeFlags(*c, flags->runtime, /*model_required=*/false);
  AddSpeculateFlag(*c, flags->runtime);
  c->add_flag(
      "--sources", s.sources,
      "Questions may ask where their answers looked (`duo client ask --sources`, `sources` over HTTP): the server "
      "keeps what is appended as text, too, and room to read attention; questions that do not ask cost nothing");
  AddSparsityFlags(*c, flags->runtime);
  AddDecodeSparsityFlag(*c, flags->runtime);
  AddKeyMeansFlag(*c, flags->runtime);
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
  c->add_flag(
      "--admin", flags->http.admin,
      "The page at / of the HTTP port has buttons that drain the server and pin sessions, for tokens of role admin");
  c->add_option("--metrics", s.metrics, "Serve metrics for Prometheus here, at /metrics")
      ->type_name("HOST:PORT")
      ->check(Address());
  c->add_option("--log", flags->log, "One line an event on stderr")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
  c->add_option("--log-level", flags->log_level,
                "What is below it has no line; debug has one a step. HUP reads it again from the file of --config")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->capture_default_str();
  c->add_option("--otlp-endpoint", s.otlp_endpoint,
                "Send what each call spent its time on (queue, read, decode, save) to this OpenTelemetry collector, as "
                "spans in JSON over HTTP without TLS; without a path it is /v1/traces")
      ->type_name("URL")
      ->check(CLI::Validator([](const std::string& url) { return std::string(SpanSender::Check(url).message()); }, "",
                             "endpoint"));

  c->add_option(
       "--config", flags->config,
       "Lines `flag = value`, for flags that neither the command line nor the environment gives. Every flag is "
       "also an environment variable: DUO_SAVE_DIR is --save-dir, DUO_CONFIG this one")
      ->type_name("FILE");
  c->add_flag("--print-config", flags->print_config,
              "Print all flags with their values and where these come from, as a file for --config; nothing is served");

  c->add_flag("--access-log", flags->access_log, "A line of the log for every HTTP request, but for probes");

  AddCallerFlags(c, flags);
  AddKeepFlags(c, flags);
  AddLimitFlags(c, flags);
}

void CheckServeFlags(const CLI::App& command, ServeFlags& flags) {
  ServerOptions& s = flags.server;
  CheckModel(flags);
  if (command.count("--max-queue") == 0) s.max_queue = std::max(s.max_queue, flags.questions);
  if (s.save_dir.empty() && s.idle_seconds > 0) throw CLI::RequiresError("--idle-out", "--save-dir");
  if (s.save_dir.empty() && s.prefix_disk > 0) throw CLI::RequiresError("--prefix-disk", "--save-dir");
  if (s.save_dir.empty() && s.take_over) throw CLI::RequiresError("--take-over", "--save-dir");
  if (flags.kv_tokens > 0 && s.max_session_tokens > flags.kv_tokens) {
    throw CLI::ValidationError(absl::StrCat("--max-session-tokens ", s.max_session_tokens,
                                            ": no session can be so long in --kv-tokens ", flags.kv_tokens));
  }
}

}  // namespace duo
