// How an engine comes to be: heads, partition, formats, sizes, then memory.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/alike_rows.h"
#include "kernels/attention.h"
#include "kernels/base/math.h"
#include "parallel/agreement.h"
#include "runtime/drafts/drafter.h"
#include "runtime/engine/agree_on_options.h"
#include "runtime/engine/choose_heads.h"
#include "runtime/engine/engine_state.h"
#include "runtime/kv/window_rings.h"
#include "runtime/model/rope.h"
#include "runtime/model/sampler.h"
#include "runtime/model/workspace.h"
#include "runtime/weights/cut_unit.h"
#include "runtime/weights/held_weights.h"
#include "runtime/weights/key_bias.h"
#include "runtime/weights/matrix_bits.h"
#include "runtime/weights/model_shape.h"
#include "runtime/weights/quantize.h"
#include "runtime/weights/supported_quantization.h"

namespace duo {
namespace {

// The GPU of rank 0 is what all ranks plan for: their partitions must be the same. Empty: a CPU.
std::string PlannedGpu(Communicator& comm, const Device& device) {
  char name[256] = {};
  if (device.is_cuda()) device.info().name.copy(name, sizeof(name) - 1);
  if (comm.size() > 1) comm.Broadcast(name, sizeof(name), 0);
  return name;
}

// Of a chunk whose rows' logits are all held: as many as 64 MiB hold, at least 256.
int RowsOfLogits(int64_t vocab) {
  const int64_t rows = (int64_t{64} << 20) / (vocab * static_cast<int64_t>(sizeof(float)));
  return static_cast<int>(std::max<int64_t>(256, rows / 256 * 256));
}

bool AnySplit(const Partition& partition) {
  for (const auto& layer : partition.layers) {
    if (!SplitHeads(layer).empty()) return true;
  }
  return false;
}
bool AnyWhole(const Partition& partition) {
  for (const auto& layer : partition.layers) {
    for (const RankHeads& rank : layer) {
      if (!rank.whole.empty()) return true;
    }
  }
  return false;
}
// Whether some layer's MLP is no mixture.
bool AnyDense(const ModelConfig& config) {
  for (int layer = 0; layer < config.layers; ++layer) {
    if (!config.experts.in(layer)) return true;
  }
  return false;
}
int SplitSlots(const Partition& partition) {
  for (const auto& layer : partition.layers) {
    for (const RankHeads& rank : layer) {
      if (!rank.split.empty()) return rank.split[0].of;
    }
  }
  return 1;
}

// Of one layer.
int MostWholeHeads(const RankShard& shard) {
  int most = 0;
  for (const std::vector<LocalHead>& layer : shard.layers) {
    int whole = 0;
    for (const LocalHead& head : layer) whole += head.kind == HeadKind::kWhole;
    most = std::max(most, whole);
  }
  return most;
}

// Of int4 KV; empty where there is nothing to warn of.
std::string KeyWarning(const KeyRounding& keys) {
  if (keys.bias_ratio >= kLargeKeyBias) {
    return absl::StrFormat(
        "warning: this model's key biases are large (layer %d, KV head %d: %.0f times the spread of its keys), so an "
        "int4 KV cache costs it accuracy; --kv int8 or bf16 does not",
        keys.layer, keys.kv_head, keys.bias_ratio);
  }
  if (keys.logit_noise < kLargeLogitNoise) return "";
  return absl::StrFormat(
      "warning: by this model's weights int4 keys move its attention logits by about %.2f, so an int4 KV cache may "
      "cost "
      "it more than 3 %% of perplexity (measure it: duo bench perplexity); --kv int8 or bf16 does not",
      keys.logit_noise);
}

// EngineOptions::max_gap, in seconds: on a GPU a chunk that short has work enough; on a CPU one much shorter spends its
// time on reading the weights.
constexpr double kGpuGap = 0.05, kCpuGap = 0.25;

// StepCosts' first guess, before steps are measured.
constexpr double kGpuRowCost = 0.02, kCpuRowCost = 0.06;

// Of the questions that may be open so many have a fork, with its rings, at once; the others wait without one.
int RunningQuestions(const EngineOptions& options) { return std::min(options.questions, Worker::kMaxBatch); }

// The smallest of every rank's numbers.
int64_t MinOverRanks(Communicator& comm, int64_t value) {
  std::vector<int64_t> all(comm.size());
  comm.AllGatherHost(all.data(), &value, sizeof value);
  return *std::min_element(all.begin(), all.end());
}

}  // namespace

// What follows from options and files alone, on every rank alike.
absl::Status Engine::State::Decide() {
  if (absl::Status s = AgreeOnOptions(*comm, options); !s.ok()) return s;
  if (absl::Status s = AgreeOnConfig(*comm, options); !s.ok()) return s;
  absl::StatusOr<ModelConfig> loaded =
      options.shape.has_value() ? absl::StatusOr<ModelConfig>(*options.shape) : LoadConfig(options.model_dir);
  absl::Status status = loaded.status();
  if (loaded.ok()) config = *loaded;
  if (loaded.ok()) status = CheckSupported(config.quantization, options.model_dir + "/config.json");
  if (status.ok() && comm->rank() == 0) {
    absl::StatusOr<HeadPlan> chosen =
        options.heads.has_value() ? absl::StatusOr<HeadPlan>(*options.heads) : ChooseHeads(options, config, notes);
    status = chosen.status();
    if (chosen.ok()) {
      heads = *chosen;
      KeepWindowsInRings(config, &heads);
    }
  }
  if (absl::Status s = Agree(*comm, status); !s.ok()) return s;
  ShareHeads(*comm, &heads);
  absl::StatusOr<std::vector<ProvenanceHead>> looked = std::vector<ProvenanceHead>();
  if (options.provenance && comm->rank() == 0) looked = ChooseProvenance(options, config, heads);
  if (absl::Status s = Agree(*comm, looked.status()); !s.ok()) return s;
  provenance = *std::move(looked);
  ShareProvenance(*comm, &provenance);

  if (absl::Status s = DecideDrafts(); !s.ok()) return s;
  kv = options.kv.value_or(device->is_cuda() ? KvFormat::kBF16 : KvFormat::kF32);
  if (absl::Status s = CheckAttention(*device, config.head_dim, config.heads / config.kv_heads, kv); !s.ok()) return s;
  if (absl::Status s = DecideFormats(); !s.ok()) return s;
  PartitionRequest request;
  request.shape = ShapeOf(config);
  request.heads = heads;
  request.world = comm->size();
  request.rank_weights = options.rank_weights;
  request.kv_token_bytes = KvTokenBytes(kv, config.head_dim);
  request.weight_bits = MatrixBits(config, formats);
  request.strategy = options.strategy;
  request.reads_per_step = ReadsPerStep(request.context);
  request.rates = RatesOfGpu(PlannedGpu(*comm, *device));
  const auto unit = [&](int64_t columns) {
    return CutUnit(config.quantization, {options.weights, options.int8_group, !options.mixed_weights.empty()}, columns,
                   comm->size());
  };
  request.expert_unit = unit(config.experts.intermediate);
  request.experts = options.experts;
  // A copy in int4 has no groups for split experts that are cut finer: whole ones it has.
  if (options.int4_drafts && options.experts == ExpertPlacement::kAuto && request.expert_unit < kLeastInt4Group &&
      config.experts.count > 0 && comm->size() > 1) {
    request.experts = ExpertPlacement::kWhole;
  }
  absl::StatusOr<Partition> made = MakePartition(request);
  if (!made.ok()) return made.status();
  partition = std::move(*made);
  if (partition.whole_experts && options.experts == ExpertPlacement::kAuto && comm->rank() == 0) {
    notes.push_back(request.experts == ExpertPlacement::kWhole
                        ? "each expert lies whole on one rank, for its copy in int4 cannot be cut over so many"
                        : "each expert lies whole on one rank, which by the cost model is faster than a part of each "
                          "on every rank (--experts split cuts them)");
  }
  if (const int other = options.act_as_rank; other != 0) {
    for (std::vector<RankHeads>& layer : partition.layers) std::swap(layer[0], layer[other]);
    std::swap(partition.shares[0], partition.shares[other]);
  }
  std::vector<int64_t> cuts = {config.intermediate, config.experts.intermediate, config.experts.shared_intermediate};
  if (partition.whole_experts) {
    cuts = {config.experts.shared_intermediate};
    if (AnyDense(config)) cuts.push_back(config.intermediate);
  }
  for (const int64_t cut : cuts) {
    if (cut > 0 && comm->size() > 1) cut_unit = static_cast<int>(std::min<int64_t>(cut_unit, unit(cut)));
  }
  const auto shard_of = [&](int rank) {
    return MakeShard(partition, request.shape, rank, unit(config.intermediate), 1,
                     {unit(config.experts.intermediate), unit(config.experts.shared_intermediate)});
  };
  shard = shard_of(comm->rank());
  FindRowPeers(shard_of);
  return absl::OkStatus();
}

absl::StatusOr<KvSizes> Engine::State::Size(const WeightFormats& formats, const StepLimits& limits) {
  KvSizes sizes;
  const int most_drafts = device->is_cuda() && ChecksAreExact() ? kAlikeRows - 1 : kMostDrafts;
  sizes.ring_slack = options.speculate == Speculation::kOff ? 0 : most_drafts;
  const KvUnitBytes unit = UnitBytes(config, shard, heads, kv, sizes.ring_slack);
  sizes.format = kv;
  sizes.slots = SplitSlots(partition);
  sizes.tables = options.sessions + RunningQuestions(options) + options.prefixes;
  sizes.rings = sizes.tables + 1;
  sizes.table_pages = CeilDiv(limits.max_tokens, kPageTokens);
  memory.device_free = device->FreeMemory();
  memory.reserve = device->is_cuda() ? int64_t{256} << 20 : memory.device_free / 32;
  memory.weights = WeightBytes({config, shard, formats});
  memory.peer_shards = shared_rows.has_value() ? PeerShardBytes(config, *shared_rows, formats) : 0;
  memory.rings = sizes.rings * unit.ring;
  sizes.lists = limits.lists ? std::min(RunningQuestions(options), kMostListedAnswers) : 0;
  memory.tables =
      4 * sizes.tables * (sizes.table_pages + CeilDiv(sizes.table_pages, sizes.slots)) + ListBytes(shard, sizes);
  const RopeFrequencies rope = ComputeRopeFrequencies(config, limits.max_tokens);
  const absl::StatusOr<int64_t> forward =
      WorkspaceBytes({config, partition, shard, rope, provenance, key_shift.shift, chunks,
                      shared_rows.has_value() ? &*shared_rows : nullptr},
                     formats, draft_formats.has_value() ? &*draft_formats : nullptr, heads, sizes, limits, *device);
  if (!forward.ok()) return forward.status();
  const auto sampling = static_cast<int64_t>(Bytes(DType::kF32, limits.samples * shard.vocab.size()) +
                                             DrawScratchBytes(*device, limits.samples, shard.vocab.size()));
  memory.workspace = std::max(*forward, sampling);
  // Every sequence may end inside a page, and a fork copies one: rounding beside the tokens themselves.
  const int64_t rounding = 2 * sizes.tables;
  auto pages_for = [&](int64_t tokens) {
    sizes.pages = AnyWhole(partition) ? CeilDiv(tokens, kPageTokens) + rounding : 0;
    sizes.split_pages = AnySplit(partition) ? CeilDiv(tokens, int64_t{kPageTokens} * sizes.slots) + rounding : 0;
    return sizes.pages * unit.page + sizes.split_pages * unit.split_page;
  };
  // Of the tokens' index for drafts, where it lies in the same memory.
  const int64_t index_per_token = sizes.ring_slack > 0 && !device->is_cuda() ? DraftIndex::kMostBytesPerToken : 0;
  int64_t tokens = options.kv_tokens;
  if (tokens == 0) {
    const int64_t fixed = memory.total() + memory.reserve + pages_for(0);
    const double per_token = index_per_token + static_cast<double>(unit.page) / kPageTokens +
                             static_cast<double>(unit.split_page) / (static_cast<double>(kPageTokens) * sizes.slots);
    // No more than every sequence at its longest; on the CPU at most half of the memory, which is also the user's.
    int64_t most = limits.max_tokens * sizes.tables;
    if (per_token > 0) {
      const double room = static_cast<double>(memory.device_free - fixed) * (device->is_cuda() ? 1.0 : 0.5);
      most = std::min(most, static_cast<int64_t>(std::max(0.0, room / per_token)));
    }
    tokens = MinOverRanks(*comm, most) / kPageTokens * kPageTokens;
  }
  memory.kv_pages = pages_for(tokens);
  memory.kv_tokens = tokens;
  memory.index = index_per_token * tokens;
  if (absl::Status s = Agree(*comm, CheckFits(memory)); !s.ok()) return s;
  return sizes;
}

void Engine::State::MakeScheduler(const KvSizes& sizes, int chunk) {
  SchedulerOptions s;
  s.chunk = chunk;
  s.max_wait = options.max_wait;
  s.max_gap = options.max_gap > 0 ? options.max_gap : device->is_cuda() ? kGpuGap : kCpuGap;
  s.max_batch = limits.batch;
  s.max_rows = limits.rows - kMaxDecodeRows;
  s.max_samples = limits.samples;
  s.max_pending = std::max<int64_t>(s.max_pending, options.sessions + options.questions);
  s.refeed = heads.streaming_heads() == 0 ? 0 : int64_t{config.layers} * heads.recent;
  s.sessions = options.sessions;
  s.questions = RunningQuestions(options);
  s.prefixes = options.prefixes;
  s.prefix_stop = std::min<int64_t>(s.prefix_stop, 2 * chunk);
  const KvUnitBytes unit = UnitBytes(config, shard, heads, kv);
  s.page_bytes = static_cast<double>(unit.page);
  s.split_page_bytes = static_cast<double>(unit.split_page);
  s.ring_bytes = static_cast<double>(unit.ring);
  const double d = config.head_dim;
  const int64_t group = config.heads / config.kv_heads;  // a whole number
  s.flop_per_token = 2.0 * static_cast<double>(TokenMatrixElements(config)) / comm->size();
  s.flop_per_token_pair = 4.0 * d * static_cast<double>(group) * heads.retrieval_heads() / comm->size();
  s.flop_rate = device->is_cuda() ? 4e14 : 3e10 * device->pool().threads();
  s.sparsity = options.prefill_sparsity;
  s.guesses = options.speculate == Speculation::kSelf;
  s.decode = s.guesses ? DecodeSparsity{options.guess_target} : options.decode_sparsity;
  s.draft_weights = options.int4_drafts;
  if (draft_model != nullptr) {
    s.guess_read_cost = device->is_cuda() ? 1.0 / kMaxDecodeRows : 0.5;
    s.model_guesses = [this](std::span<const GuessAsked> asked) { return draft_model->Guess(asked, config.vocab); };
  }
  s.lists = sizes.lists;
  s.heads = static_cast<int>(config.layers * config.kv_heads);
  s.kv_heads = static_cast<int>(config.kv_heads);
  if (s.sparsity.mode == PrefillSparsity::Mode::kFixed) s.flop_per_token_pair *= s.sparsity.density / 1000.0;
  s.rider_factor = device->is_cuda() ? 16 : 2;
  s.measured = options.measured;
  s.drafts = sizes.ring_slack;
  s.checks_alone = device->is_cuda() && ChecksAreExact();
  s.row_cost = device->is_cuda() ? kGpuRowCost : kCpuRowCost;
  scheduler = std::make_unique<Scheduler>(s, sizes, AnyWhole(partition), AnySplit(partition));
}

// Formats, limits and sizes: everything that is known before memory is taken.
absl::Status Engine::State::Prepare() {
  if (absl::Status s = Decide(); !s.ok()) return s;
  if (files.has_value() && kv == KvFormat::kInt4 && comm->rank() == 0) {
    const absl::StatusOr<KeyRounding> keys = EstimateKeyRounding(*files, config, device->pool());
    const std::string warning = keys.ok() ? KeyWarning(*keys) : "";  // what is missing, the loader will say
    if (!warning.empty()) notes.push_back(warning);
  }
  if (absl::Status s = CheckGroups(config, formats); !s.ok()) return s;
  if (absl::Status s = CheckSparsity(); !s.ok()) return s;
  if (absl::Status s = PrepareDrafts(); !s.ok()) return s;
  const int64_t positions = MaxPositions(config);
  if (options.max_session_tokens > positions) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: the model has %d positions, %d tokens were asked for",
                                                      options.model_dir, positions, options.max_session_tokens));
  }
  chunk = options.chunk > 0 ? options.chunk : device->is_cuda() ? 16384 : 1024;
  if (options.append_logits) chunk = std::min(chunk, RowsOfLogits(config.vocab));
  limits.max_tokens = options.max_session_tokens > 0 ? options.max_session_tokens : positions;
  if (absl::Status s = DecideChunks(); !s.ok()) return s;
  limits.prefill_rows = static_cast<int>(std::min<int64_t>(chunk, limits.max_tokens));
  limits.sparse = options.prefill_sparsity.on();
  limits.lists = options.decode_sparsity.on() || options.speculate == Speculation::kSelf;
  limits.batch = Worker::Bucket(std::min(Worker::kMaxBatch, options.sessions + RunningQuestions(options)));
  limits.rows = std::max(SchedulerOptions().max_rows, limits.batch) + kMaxDecodeRows;
  limits.samples = options.append_logits ? std::max(chunk, limits.rows) : std::max(kMaxDecodeRows, limits.batch);
  if (absl::Status s = DecideKeyShift(); !s.ok()) return s;
  absl::StatusOr<KvSizes> sized = SizeWithPeers();
  if (!sized.ok()) return sized.status();
  sizes = *sized;
  return absl::OkStatus();
}

absl::Status Engine::State::Start(const ProbeOptions& wanted, Device& on, Communicator& with) {
  options = wanted;
  device = &on;
  comm = &with;
  absl::Status loaded = Load();
  if (!loaded.ok()) scheduler.reset();  // nobody follows
  return loaded;
}

absl::Status Engine::State::Load() {
  if (absl::Status s = Prepare(); !s.ok()) return s;
  StartPrefillPlans(*device, limits.prefill_rows, MostWholeHeads(shard), config.heads / config.kv_heads,
                    config.head_dim, limits.max_tokens);
  absl::StatusOr<ModelWeights> weights =
      files.has_value() ? LoadWeights(*files, {config, shard, formats}, *device, *comm, Progress(0))
                        : RandomWeights({config, shard, formats}, *device);
  if (absl::Status s = Agree(*comm, weights.status()); !s.ok()) return s;
  const RopeFrequencies rope = ComputeRopeFrequencies(config, limits.max_tokens);
  absl::StatusOr<Model> model = Model::Create({config, partition, shard, rope, provenance, key_shift.shift, chunks},
                                              std::move(*weights), *device, *comm);
  if (absl::Status s = Agree(*comm, model.status()); !s.ok()) return s;
  if (absl::Status s = LoadPeerShards(*model); !s.ok()) return s;
  if (absl::Status s = LoadDraftWeights(*model); !s.ok()) return s;
  absl::StatusOr<KvCache> cache = KvCache::Create(*device, config, shard, heads, sizes);
  if (absl::Status s = Agree(*comm, cache.status()); !s.ok()) return s;
  absl::StatusOr<Buffer> workspace = Buffer::Allocate(*device, memory.workspace, "the workspace");
  if (absl::Status s = Agree(*comm, workspace.status()); !s.ok()) return s;
  absl::StatusOr<std::unique_ptr<Worker>> made =
      Worker::Create(std::move(*model), std::move(*cache), Arena(std::move(*workspace)), limits, *device, *comm);
  if (absl::Status s = Agree(*comm, made.status()); !s.ok()) return s;
  worker = std::move(*made);
  // Or the first steps of each kind would be recorded while their time is taken for what drafts cost.
  if (sizes.ring_slack > 0) worker->RecordGraphs();
  if (absl::Status s = LoadDraftModel(); !s.ok()) return s;
  if (comm->rank() == 0) MakeScheduler(sizes, chunk);
  files.reset();
  return absl::OkStatus();
}

}  // namespace duo
