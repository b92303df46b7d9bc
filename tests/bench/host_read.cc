// Reading by heads and by rows over the ranks of this job, in turns: what host_links.py runs in network namespaces. Run
// as
//   mpirun -n N host_read CONTEXT CHUNK ROUNDS
// Random weights of SmolLM2-135M's shape, every other head a retrieval head, a CPU thread a rank. Rank 0 prints JSON:
// the seconds of each read, and what the busiest host has sent for one.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "attn_patterns/head_plan.h"
#include "kernels/base/check.h"
#include "kernels/base/seconds.h"
#include "runtime/engine/probe.h"
#include "tests/mpi/rank_setup.h"

namespace duo {
namespace {

ProbeOptions OptionsFor(PrefillSplit split, int64_t context, int chunk) {
  ModelConfig config;
  config.layers = 30;
  config.hidden = 576;
  config.intermediate = 1536;
  config.heads = 9;
  config.kv_heads = 3;
  config.head_dim = 64;
  config.vocab = 49152;
  config.tie_embeddings = true;
  config.max_position_embeddings = 1 << 20;
  ProbeOptions options;
  options.shape = config;
  options.heads = FullPlan(config.layers, config.kv_heads);
  for (size_t head = 0; head < options.heads->retrieval.size(); head += 2) options.heads->retrieval[head] = 0;
  options.heads->sink = 64;
  options.heads->recent = 256;
  options.prefill_split = split;
  options.chunk = chunk;
  options.questions = 1;
  options.max_session_tokens = context;
  options.kv_tokens = 2 * context;
  options.measured = false;
  return options;
}

// Of this host's interface; 0 where it has another name.
double SentBytes() {
  std::ifstream file("/sys/class/net/eth0/statistics/tx_bytes");
  double bytes = 0;
  file >> bytes;
  return bytes;
}

double Read(Engine& engine, int64_t context) {
  const absl::StatusOr<SessionId> session = engine.CreateSession(context);
  DUO_CHECK_MSG(session.ok(), std::string(session.status().message()));
  std::vector<int32_t> tokens(context);
  for (int64_t i = 0; i < context; ++i) tokens[i] = static_cast<int32_t>((i * 2654435761u + 12345) % 49152);
  absl::Status status;
  RequestEvents events;
  events.on_done = [&](const RequestResult& result) { status = result.status; };
  DUO_CHECK(engine.Append(*session, tokens, events).ok());
  const Clock::time_point start = Clock::now();
  while (engine.Step()) {
  }
  const double seconds = SecondsSince(start);
  DUO_CHECK_MSG(status.ok(), std::string(status.message()));
  DUO_CHECK(engine.CloseSession(*session).ok());
  return seconds;
}

int Run(int64_t context, int chunk, int rounds) {
  Ranks ranks = StartRanks(false, CommKind::kMpi);
  const PrefillSplit splits[] = {PrefillSplit::kHeads, PrefillSplit::kRows};
  std::vector<double> seconds[2];
  double sent[2] = {};
  for (int round = 0; round < rounds; ++round) {
    for (int way = 0; way < 2; ++way) {
      const auto engine = EngineProbe::Create(OptionsFor(splits[way], context, chunk), *ranks.device, *ranks.comm);
      DUO_CHECK_MSG(engine.ok(), std::string(engine.status().message()));
      const double before = SentBytes();
      if (!ranks.leader()) {
        (*engine)->Follow();
      } else {
        seconds[way].push_back(Read(**engine, context));
      }
      // The leader's host sends the plans besides, a few KB.
      sent[way] = SentBytes() - before;
    }
  }
  std::vector<double> all(2 * ranks.comm->size());
  ranks.comm->AllGatherHost(all.data(), sent, sizeof sent);
  if (!ranks.leader()) return 0;
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (int way = 0; way < 2; ++way) {
    double most = 0;
    for (size_t r = 0; r < all.size() / 2; ++r) most = std::max(most, all[2 * r + way]);
    const double best = *std::min_element(seconds[way].begin(), seconds[way].end());
    rows.push_back({{"prefill_split", Name(splits[way])},
                    {"seconds", best},
                    {"all_seconds", seconds[way]},
                    {"tokens_per_second", static_cast<double>(context) / best},
                    {"sent_bytes", most}});
  }
  std::printf("%s\n", rows.dump().c_str());
  return 0;
}

}  // namespace
}  // namespace duo

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: mpirun -n N host_read CONTEXT CHUNK ROUNDS, as 2 hosts: 2048 1024 3\n");
    return 2;
  }
  return duo::Run(std::atoll(argv[1]), std::atoi(argv[2]), std::atoi(argv[3]));
}
