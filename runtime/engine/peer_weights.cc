// Chunks of prompt that ranks share out by rows (runtime/model/rows_prefill.h): whether they are, where that is left to
// the engine, and the other ranks' weights, which they need.
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "kernels/base/seconds.h"
#include "runtime/engine/engine_state.h"
#include "runtime/engine/row_choice.h"
#include "runtime/weights/held_weights.h"
#include "runtime/weights/model_shape.h"

namespace duo {
namespace {

constexpr int64_t kMessageBytes = int64_t{4} << 20;  // of the link's measurement; a prefill's are longer
constexpr int kMessages = 3;

// The best of a few.
template <typename Exchange>
double SecondsOf(Device& device, Communicator& comm, const Exchange& exchange) {
  double best = 1e30;
  for (int i = 0; i <= kMessages; ++i) {
    comm.Barrier();
    const Clock::time_point start = Clock::now();
    exchange();
    device.Synchronize();
    if (i > 0) best = std::min(best, SecondsSince(start));  // the first one opens connections
  }
  return best;
}

absl::StatusOr<Buffer> MessageMemory(Device& device, Communicator& comm) {
  absl::StatusOr<Buffer> memory = Buffer::Allocate(device, 2 * kMessageBytes, "messages that measure the links");
  if (absl::Status s = Agree(comm, memory.status()); !s.ok()) return s;
  device.Fill(memory->data(), 0, 2 * kMessageBytes);
  return memory;
}

// Seconds a byte that each rank has in a sum.
double SecondsOfSum(Device& device, Communicator& comm, const Buffer& memory) {
  if (comm.size() == 1) return 0;
  const View numbers(memory.data(), DType::kF32, 1, kMessageBytes / 4);
  return SecondsOf(device, comm, [&] { comm.AllReduceSum(numbers, device); }) / kMessageBytes;
}

// And that it sends to others, a block to each.
double SecondsOfBlocks(Device& device, Communicator& comm, const Buffer& memory) {
  const std::vector<int64_t> blocks(comm.size(), kMessageBytes / comm.size());
  auto* data = memory.as<uint8_t>();
  const double seconds =
      SecondsOf(device, comm, [&] { comm.AllToAll(data + kMessageBytes, blocks, data, blocks, device); });
  return seconds / static_cast<double>(blocks[0] * (comm.size() - 1));
}

// Of each rank.
std::vector<std::string> HostsOf(Communicator& comm) {
  struct HostName {
    char name[64] = {};
  } own;
  gethostname(own.name, sizeof(own.name) - 1);
  std::vector<HostName> names(comm.size());
  comm.AllGatherHost(names.data(), &own, sizeof own);
  std::vector<std::string> hosts;
  for (const HostName& host : names) hosts.emplace_back(host.name);
  return hosts;
}

// The slowest of all ranks', so that all decide alike.
double Slowest(Communicator& comm, double seconds) {
  std::vector<double> all(comm.size());
  comm.AllGatherHost(all.data(), &seconds, sizeof seconds);
  return *std::max_element(all.begin(), all.end());
}

}  // namespace

void Engine::State::FindRowPeers(absl::FunctionRef<RankShard(int rank)> shard_of) {
  if (options.prefill_split == PrefillSplit::kHeads) return;
  if (comm->size() == 1) {
    if (options.prefill_split == PrefillSplit::kRows) {
      notes.push_back(
          "--prefill-split rows does nothing on one rank: there is nobody to share rows with (several: mpirun -n N)");
    }
    return;
  }
  SharedRows shared;
  shared.groups = RowGroupsOf(HostsOf(*comm), partition.shares, shard.rank);
  for (const int peer : shared.groups.peers) shared.shards.push_back(shard_of(peer));
  // Peers have the same place in their groups.
  among_peers = comm->Split(shared.groups.peers[0]);
  in_group = shared.groups.ranks == 1 ? MakeSelfCommunicator() : comm->Split(shared.groups.group);
  shared_rows = std::move(shared);
}

absl::StatusOr<KvSizes> Engine::State::SizeWithPeers() {
  if (!shared_rows.has_value()) return Size(formats, limits);
  const auto tell = [&](const std::string& note) {
    if (comm->rank() == 0) notes.push_back(note);
  };
  const auto share_no_rows = [&] {
    shared_rows.reset();
    among_peers.reset();
    in_group.reset();
  };
  if (!LongEnoughForRows(chunk, shared_rows->groups.shares)) {
    tell(
        absl::StrFormat("--prefill-split %s: prompts go by heads, for a chunk of %d tokens (--chunk) has fewer than %d "
                        "rows for one of %d ranks or hosts",
                        Name(options.prefill_split), chunk, kLeastRowsOfGroup, shared_rows->groups.groups()));
    share_no_rows();
    return Size(formats, limits);
  }
  const absl::StatusOr<Buffer> messages = MessageMemory(*device, *comm);
  if (!messages.ok()) return messages.status();
  const double sum = Slowest(*comm, SecondsOfSum(*device, *comm, *messages)),
               sent = Slowest(*comm, SecondsOfBlocks(*device, *among_peers, *messages)),
               inside = Slowest(*comm, SecondsOfSum(*device, *in_group, *messages));
  // Whoever does not choose has sent messages, too: what NCCL wants for them is taken before memory is counted.
  if (options.prefill_split == PrefillSplit::kRows) return Size(formats, limits);
  // Of a token of the longest document; what both ways share is guessed as the scheduler guesses its first chunks.
  const int number = static_cast<int>(Bytes(ActivationType(*device), 1));
  const double stream = 2 * static_cast<double>(config.hidden) * number;  // bytes of two sums in a layer
  const RowGroups& groups = shared_rows->groups;
  double by_heads = 0, by_rows = 0;
  for (const auto& layer : partition.layers) {
    by_heads += stream * sum;
    by_rows += BytesOfLayer(ShapeOf(config), layer, partition.shares, groups.ranks, number).rows / groups.ranks * sent +
               stream * inside / groups.groups();
  }
  const double rate = device->is_cuda() ? 4e14 : 3e10 * device->pool().threads();
  const double pairs = static_cast<double>(limits.max_tokens) / 2 * 4 * config.head_dim * config.heads /
                       config.kv_heads * heads.retrieval_heads();
  const double work = (2.0 * static_cast<double>(TokenMatrixElements(config)) + pairs) / comm->size() / rate;
  RowChoice choice = {by_heads, by_rows, work, 1 / sum, 1 / sent};
  const std::vector<std::string> hosts = HostsOf(*comm);
  choice.on_cores = !device->is_cuda() && std::set<std::string>(hosts.begin(), hosts.end()).size() == 1;
  double gain = choice.gain();
  comm->Broadcast(&gain, sizeof gain, 0);  // ranks may have unequal numbers of threads
  bool room = true;
  if (gain >= kLeastRowsGain) {
    absl::StatusOr<KvSizes> sized = Size(formats, limits);
    room = sized.ok() && (options.kv_tokens > 0 || memory.kv_tokens >= limits.max_tokens);
    if (room) {
      tell(Describe(choice, gain, room));
      return sized;
    }
  }
  share_no_rows();
  tell(Describe(choice, gain, room));
  return Size(formats, limits);
}

absl::Status Engine::State::LoadPeerShards(Model& model) {
  if (!shared_rows.has_value()) return absl::OkStatus();
  int64_t before = memory.weights;
  absl::StatusOr<PeerShards> peers = MakePeerShards(config, *shared_rows, formats, [&](const WeightShare& share) {
    absl::StatusOr<ModelWeights> made = files.has_value() ? LoadWeights(*files, share, *device, *comm, Progress(before))
                                                          : RandomWeights(share, *device);
    before += WeightBytes(share);
    if (absl::Status s = Agree(*comm, made.status()); !s.ok()) made = s;
    return made;
  });
  if (!peers.ok()) return peers.status();
  model.AddRowsPrefill(std::make_unique<RowsPrefill>(shared_rows->shards, shared_rows->groups, *std::move(peers),
                                                     std::move(among_peers), std::move(in_group)));
  return absl::OkStatus();
}

}  // namespace duo
