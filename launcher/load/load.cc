#include "launcher/load/load.h"

#include <csignal>
#include <cstdlib>
#include <memory>
#include <thread>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "launcher/client/channel.h"
#include "launcher/client/interrupt.h"
#include "launcher/load/load_client.h"

namespace duo {
namespace {

using Clients = std::vector<std::unique_ptr<LoadClient>>;

constexpr double kPatience = 30;  // seconds

absl::StatusOr<v1::StatsResponse> StatsOf(const LoadOptions& options, const std::shared_ptr<grpc::Channel>& channel) {
  v1::StatsResponse stats;
  const grpc::Status status = v1::Cluster::NewStub(channel)->Stats(MakeContext(options.client).get(), {}, &stats);
  if (!status.ok()) return FromGrpc(status);
  return stats;
}

// How much more is held than at `before`, as soon as that is nothing, or after half a minute: answers that were given up
// end before the next step.
absl::StatusOr<LeftBehind> LeftSince(const v1::StatsResponse& before, const LoadOptions& options,
                                     const std::shared_ptr<grpc::Channel>& channel) {
  const Clock::time_point begin = Clock::now();
  while (true) {
    const absl::StatusOr<v1::StatsResponse> now = StatsOf(options, channel);
    if (!now.ok()) return now.status();
    const LeftBehind left = {
        .pages = before.pages_free() + before.split_pages_free() - now->pages_free() - now->split_pages_free(),
        .rings = before.rings_free() - now->rings_free(),
        .sessions = now->sessions_open() - before.sessions_open(),
        .calls = now->requests_running() + now->requests_waiting() - before.requests_running() -
                 before.requests_waiting()};
    if (left.nothing() || SecondsSince(begin) > kPatience) return left;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

// A session for each client, or one for all.
absl::Status Prepare(LoadRun& run, Clients& clients) {
  const LoadOptions& o = run.options;
  const int64_t beside = o.question.most() + o.answer.most() + 16;
  if (o.mix == Mix::kDocument) {
    absl::StatusOr<std::string> document = clients.front()->Open(o.context, beside);
    if (!document.ok()) return document.status();
    run.document = *document;
    return absl::OkStatus();
  }
  for (auto& client : clients) {
    absl::StatusOr<std::string> session = client->Open(o.context, beside);
    if (!session.ok()) return session.status();
    client->set_session(*std::move(session));
  }
  return absl::OkStatus();
}

void CloseAll(LoadRun& run, Clients& clients) {
  for (auto& client : clients) {
    if (!client->session().empty()) client->Close(client->session());
  }
  if (!run.document.empty()) clients.front()->Close(run.document);
}

// Until the time is over or all is asked, or, in an ingest, until all documents are read. False: somebody stopped it.
bool RunClients(LoadRun& run, Clients& clients, Clients& readers) {
  const LoadOptions& o = run.options;
  std::vector<std::thread> asking, reading;
  for (auto& client : clients) asking.emplace_back([&client] { client->Work(); });
  const bool until_read = o.mix == Mix::kIngest;
  for (auto& reader : readers) {
    reading.emplace_back([&reader, n = until_read ? o.documents : 0] { reader->Read(n); });
  }
  if (until_read) {
    for (std::thread& thread : std::exchange(reading, {})) thread.join();
  } else if (o.requests > 0) {
    for (std::thread& thread : std::exchange(asking, {})) thread.join();
  } else {
    while (!run.stop && run.Now() < o.seconds) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const bool stopped = run.stop.exchange(true);
  for (std::thread& thread : asking) thread.join();
  for (std::thread& thread : reading) thread.join();
  return !stopped;
}

}  // namespace

absl::StatusOr<LoadResult> RunLoad(const LoadOptions& options) {
  LoadRun run{.options = options, .begin = Clock::now(), .document = ""};
  Interrupt interrupt;  // before gRPC's threads
  interrupt.Tell([&run] {
    if (run.stop.exchange(true)) std::_Exit(128 + SIGINT);  // asked twice
  });
  const bool reads = options.mix == Mix::kIngest || options.mix == Mix::kMixed;
  Clients clients, readers;
  std::shared_ptr<grpc::Channel> channel;
  for (int i = 0; i < options.clients + (reads ? options.readers : 0); ++i) {
    absl::StatusOr<std::shared_ptr<grpc::Channel>> opened = OpenChannel(options.client);
    if (!opened.ok()) return opened.status();
    channel = *opened;
    (i < options.clients ? clients : readers).push_back(std::make_unique<LoadClient>(run, channel, i));
  }
  const absl::StatusOr<v1::StatsResponse> empty = StatsOf(options, channel);
  if (!empty.ok()) return empty.status();
  absl::Cleanup close = [&] { CloseAll(run, clients); };
  if (absl::Status s = Prepare(run, clients); !s.ok()) return s;

  LoadResult result;
  result.clients = options.clients;
  if (options.mix == Mix::kIngest && options.read_alone) {
    absl::StatusOr<double> rate = readers.front()->ReadOne();
    if (!rate.ok()) return rate.status();
    result.alone_rate = *rate;
    readers.front()->log() = LoadLog();
  }
  const absl::StatusOr<v1::StatsResponse> before = StatsOf(options, channel);
  if (!before.ok()) return before.status();
  run.begin = Clock::now();
  result.interrupted = !RunClients(run, clients, readers);
  result.seconds = run.Now();
  const absl::StatusOr<v1::StatsResponse> after = StatsOf(options, channel);
  if (!after.ok()) return after.status();
  result.steps = after->steps() - before->steps();
  result.busy_seconds = after->busy_seconds() - before->busy_seconds();
  result.prefill_tokens = after->prefill_tokens() - before->prefill_tokens();
  result.decode_tokens = after->decode_tokens() - before->decode_tokens();
  std::move(close).Invoke();
  if (options.mix == Mix::kMixed) {
    const absl::StatusOr<LeftBehind> left = LeftSince(*empty, options, channel);
    if (!left.ok()) return left.status();
    result.left = *left;
  }
  for (Clients* all : {&clients, &readers}) {
    for (auto& client : *all) result.log.Merge(client->log());
  }
  return result;
}

}  // namespace duo
