// `duo bench serve`: a load on a running service, and what came of it. Registers the verb; launcher/load does the work.

#include <cstdio>
#include <fstream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "launcher/client/server_flags.h"
#include "launcher/load/load.h"
#include "launcher/terminal/checks.h"
#include "launcher/terminal/commands.h"
#include "launcher/terminal/outputs.h"
#include "launcher/terminal/runtime_flags.h"

namespace duo {
namespace {

struct LoadFlags {
  ServerFlags server;
  LoadOptions load;
  std::string mix = "chats", svg;
  std::string context = "1000", question = "16", answer = "128", document = "20000";
  std::vector<int> clients = {8};
  bool json = false;
};

constexpr const char* kMixes[] = {"chats", "document", "ingest", "mixed"};  // as enum Mix has them

std::string LengthsRefusal(std::string& text) {
  const absl::StatusOr<Lengths> lengths = Lengths::Parse(text);
  return lengths.ok() ? "" : std::string(lengths.status().message());
}

nlohmann::ordered_json OptionsJson(const LoadFlags& f) {
  const LoadOptions& o = f.load;
  return {{"server", o.client.server},
          {"mix", f.mix},
          {"rate", o.rate},
          {"seconds", o.seconds},
          {"requests", o.requests},
          {"context", f.context},
          {"question", f.question},
          {"answer", f.answer},
          {"document", f.document},
          {"readers", o.readers},
          {"documents", o.documents},
          {"seed", o.seed},
          {"goal_first_token_seconds", o.goal_first_token},
          {"goal_gap_seconds", o.goal_gap}};
}

absl::Status RunLoads(LoadFlags f) {
  LoadOptions& o = f.load;
  o.context = *Lengths::Parse(f.context);
  o.question = *Lengths::Parse(f.question);
  o.answer = *Lengths::Parse(f.answer);
  o.document = *Lengths::Parse(f.document);
  for (size_t i = 0; i < std::size(kMixes); ++i) {
    if (f.mix == kMixes[i]) o.mix = static_cast<Mix>(i);
  }
  std::vector<LoadResult> results;
  for (int clients : f.clients) {
    o.clients = clients;
    if (!f.json) std::fprintf(stderr, "%d clients: %s\n", clients, f.mix.c_str());
    absl::StatusOr<LoadResult> result = RunLoad(o);
    if (!result.ok()) return result.status();
    results.push_back(*std::move(result));
    if (results.back().interrupted) break;
  }
  if (f.json) {
    nlohmann::ordered_json out = {{"bench", "serve"}, {"options", OptionsJson(f)}};
    for (const LoadResult& result : results) out["results"].push_back(ToJson(result));
    std::printf("%s\n", out.dump(2).c_str());
  } else {
    std::printf("%s", TableOf(results).c_str());
  }
  if (f.svg.empty()) return absl::OkStatus();
  const std::string title = absl::StrCat(f.mix, ", contexts of ", f.context, " and answers of ", f.answer, " tokens");
  std::ofstream svg(f.svg);
  svg << LoadSvg(results, title);
  return svg.flush() ? absl::OkStatus() : absl::PermissionDeniedError(f.svg + ": cannot be written");
}

int RunBenchServe(LoadFlags flags) {
  const absl::StatusOr<ClientOptions> server = OptionsOf(flags.server);
  if (!server.ok()) return Fail(server.status());
  flags.load.client = *server;
  const absl::Status status = RunLoads(flags);
  if (status.ok()) return 0;
  const absl::Status advised = WithAdvice(status, *server);
  if (!absl::IsUnavailable(status)) return Fail(advised);
  return Fail(absl::Status(
      status.code(),
      absl::StrCat(advised.message(), "; duo serve --shape llama-3-8b --random-weights needs no checkpoint")));
}

void AddLengths(CLI::App& c, LoadFlags& f) {
  const char* group = "Tokens: N, A-B (each as likely), ~MEAN (exponential) or @FILE (one of its numbers)";
  const auto add = [&](const char* name, std::string& into, const char* help) {
    c.add_option(name, into, help)
        ->check(CLI::Validator(LengthsRefusal, ""))
        ->type_name("LENGTH")
        ->group(group)
        ->capture_default_str();
  };
  add("--context", f.context, "Of what a session holds before it is asked");
  add("--question", f.question, "Of a question");
  add("--answer", f.answer, "Of an answer");
  add("--document", f.document, "Of a document that is read beside");
}

}  // namespace

void AddBenchServe(CLI::App& bench, Launch& launch) {
  auto flags = std::make_shared<LoadFlags>();
  LoadOptions& o = flags->load;
  CLI::App* c = bench.add_subcommand("serve", "A load on a running service: rates, first tokens, gaps between tokens");
  c->footer(
      "Examples:\n"
      "  duo serve --shape llama-3-8b --random-weights --sessions 64 &\n"
      "  duo bench serve --clients 1,8,32 --context 8000 --answer 256 --svg load.svg\n"
      "  duo bench serve --mix ingest --clients 8 --context 8000 --document 120000 --read-alone\n"
      "Texts are token ids that follow from --seed: no tokenizer is asked, and every length is exact.\n"
      "Ctrl-C ends a load early and prints what came until then.");
  AddServerFlags(*c, flags->server);
  c->add_option("--mix", flags->mix,
                "chats: every client asks on a session of its own; document: all on one; ingest: chats beside "
                "documents that are read, until all are; mixed: chats, documents, forks, cancels, connections that end "
                "(none with TLS) and bad calls")
      ->check(CLI::IsMember(std::vector<std::string>(std::begin(kMixes), std::end(kMixes))))
      ->capture_default_str();
  c->add_option("--clients", flags->clients, "Clients at once; several, one after the other: a,b,c")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  c->add_option("--rate", o.rate,
                "Calls that begin in a second, at random times; 0: every client asks as soon as it has its answer")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  auto* seconds = c->add_option("--seconds", o.seconds, "How long; an ingest lasts as long as its documents take")
                      ->check(CLI::Range(0.1, 1e6))
                      ->capture_default_str();
  c->add_option("--requests", o.requests, "Instead: until each client has asked so many times")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->excludes(seconds);
  c->add_option("--readers", o.readers, "Documents that are read at once, of ingest and mixed")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  c->add_option("--documents", o.documents, "That each reader of an ingest reads")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  c->add_flag("--read-alone", o.read_alone, "An ingest first reads one with nothing beside, to compare with");
  AddLengths(*c, *flags);
  c->add_option("--seed", o.seed, "Of all texts, lengths and times")->capture_default_str();
  c->add_option("--goal-first", o.goal_first_token, "Seconds to a first token that a call is to keep")
      ->check(AboveZero())
      ->capture_default_str();
  c->add_option("--goal-gap", o.goal_gap, "Seconds between two tokens that it is to keep")
      ->check(AboveZero())
      ->capture_default_str();
  c->add_flag("--json", flags->json, "Print one JSON object");
  c->add_option("--svg", flags->svg, "Draw throughput over clients, and gaps over time")->type_name("FILE");
  c->callback([flags, &launch] { launch.chosen = [flags] { return RunBenchServe(*flags); }; });
}

}  // namespace duo
