#include "launcher/terminal/runtime_flags.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <thread>

#include "absl/strings/str_cat.h"
#include "launcher/terminal/checks.h"
#include "launcher/terminal/cores.h"
#include "launcher/terminal/format_names.h"
#include "launcher/terminal/progress.h"
#include "parallel/agreement.h"
#include "parallel/memory_sharers.h"

namespace duo {
namespace {

constexpr const char* kWhereGroup = "Where it runs";
constexpr int kMostWindow = 1 << 20;  // tokens

std::optional<AttentionMode> AttentionNamed(const std::string& name) {
  for (AttentionMode m : {AttentionMode::kAuto, AttentionMode::kDuo, AttentionMode::kFull, AttentionMode::kStreaming}) {
    if (name == Name(m)) return m;
  }
  return std::nullopt;
}

std::optional<Speculation> SpeculationNamed(const std::string& name) {
  for (Speculation s :
       {Speculation::kAuto, Speculation::kOff, Speculation::kText, Speculation::kSelf, Speculation::kModel}) {
    if (name == Name(s)) return s;
  }
  return std::nullopt;
}

absl::StatusOr<std::unique_ptr<Device>> OpenDevice(const RuntimeFlags& flags, const MpiSession* mpi, int threads,
                                                   std::string* note) {
  if (flags.device == "cpu") return Device::Cpu(threads);
  absl::StatusOr<CommKind> kind = ParseCommKind(flags.comm);
  if (!kind.ok()) return kind.status();
  const int gpus = Device::CudaDeviceCount();
  absl::Status why = absl::UnavailableError("no GPU");
  absl::StatusOr<int> ordinal = 0;
  if (gpus > 0) {
    // Ranks without a GPU of their own are a mistake to be told about, not a reason to fall back.
    ordinal = LocalGpu(*kind, mpi, gpus);
    if (!ordinal.ok()) return ordinal.status();
  }
  absl::StatusOr<std::unique_ptr<Device>> cuda = Device::Cuda(*ordinal, threads);
  if (cuda.ok()) return cuda;
  if (flags.device == "cuda") return cuda.status();
  *note = std::string(cuda.status().message());
  return Device::Cpu(threads);
}

}  // namespace

void AddRuntimeFlags(CLI::App& command, RuntimeFlags& f, bool model_required) {
  command
      .add_option("--model", f.model, "Model: a folder (config.json, tokenizer.json, *.safetensors) or a .gguf file")
      ->required(model_required)
      ->type_name("PATH");

  const char* attention = "Attention";
  command
      .add_option(
          "--attention", f.attention,
          "duo: retrieval heads keep everything, streaming heads the first and the last tokens; full: all heads "
          "keep everything; streaming: none; auto: duo where the model has a pattern, else full")
      ->check(CLI::IsMember({"auto", "duo", "full", "streaming"}))
      ->capture_default_str()
      ->group(attention);
  command
      .add_option("--pattern", f.pattern,
                  "Folder that says which heads are which (default: looked up by the model's name or weights)")
      ->type_name("DIR")
      ->group(attention);
  auto* sparsity = command.add_option("--sparsity", f.sparsity, "Share of streaming heads, 0 to 1 (default 0.5)")
                       ->check(CLI::Range(0.0, 1.0))
                       ->group(attention);
  command.add_option("--threshold", f.threshold, "Instead: heads whose gate is at least this are retrieval heads")
      ->check(CLI::Range(0.0, 1.0))
      ->excludes(sparsity)
      ->group(attention);
  command.add_option("--sink", f.sink, "First tokens that streaming heads keep (default: the pattern's)")
      ->check(CLI::Range(0, kMostWindow))
      ->group(attention);
  command.add_option("--recent", f.recent, "Last tokens that streaming heads keep (default: the pattern's)")
      ->check(CLI::Range(1, kMostWindow))
      ->group(attention);

  const char* memory = "Memory";
  command.add_option("--kv", f.kv, "Format of the KV cache; auto: bf16 on CUDA, f32 on the CPU")
      ->check(CLI::IsMember(KvFormatNames()))
      ->capture_default_str()
      ->group(memory);
  command
      .add_option("--weights", f.weights,
                  "Format of the weights; auto: as stored; int8:32: a scale for every 32 columns (others on the CPU); "
                  "fp8:128x128: one for each block of 128 rows and columns")
      ->check(CLI::IsMember(WeightFormatNames()))
      ->capture_default_str()
      ->group(memory);
  command
      .add_option("--weights-head", f.weights_head,
                  "Format of embedding and vocabulary head; auto: as stored, 16 bit on CUDA")
      ->check(CLI::IsMember(WeightTypeNames()))
      ->capture_default_str()
      ->group(memory);
  command.add_option("--chunk", f.chunk, "Prompt tokens a step at most (default 16384 on CUDA, 1024 on the CPU)")
      ->transform(TokensWithUnit())
      ->check(CLI::Range(1, 1 << 20))
      ->group(memory);

  AddDeviceFlags(command, f);
  command.add_option("--strategy", f.strategy, "How heads are placed on ranks")
      ->check(CLI::IsMember({"auto", "contiguous", "heads", "split"}))
      ->capture_default_str()
      ->group(kWhereGroup);
  command
      .add_option(
          "--experts", f.experts,
          "How experts of a mixture lie on ranks: split: a part of each on every rank; whole: all of some; auto: "
          "whole where the cost model says that this is faster, else split")
      ->check(CLI::IsMember({"auto", "split", "whole"}))
      ->capture_default_str()
      ->group(kWhereGroup);
  command
      .add_option(
          "--prefill-split", f.prefill_split,
          "What ranks share out of a long prompt. heads: each computes all rows with its share of the weights, and two "
          "sums a layer join them. rows: each computes a share of the rows, which sends about a third of the bytes and "
          "so reads faster over slow links, e.g. between two hosts of one GPU each; every rank, or every host of "
          "several alike, then holds the whole model's weights. Answers agree within rounding; sessions are saved "
          "alike. auto: rows "
          "where the links, measured at start, make it faster and memory has room")
      ->check(CLI::IsMember({"heads", "rows", "auto"}))
      ->capture_default_str()
      ->group(kWhereGroup);
  command.add_option("--rank-weights", f.rank_weights, "Unequal ranks: their shares, e.g. 2,1,1")
      ->delimiter(',')
      ->check(AboveZero())
      ->type_name("W,W,...")
      ->group(kWhereGroup);
}

void AddSpeculateFlag(CLI::App& command, RuntimeFlags& f) {
  f.speculate = Name(Speculation::kAuto);
  command
      .add_option(
          "--speculate", f.speculate,
          "text: an answer's step also checks tokens that followed in the document, the question or the answer "
          "where they went on like this before, so that quoting takes few steps; the answer stays the same. "
          "self: and, behind long texts, tokens that the model guesses from the pages where it looked, or from the "
          "first and last ones, while that pays. model: and tokens that --draft-model guesses, likewise. off: a token "
          "a step. auto: model with "
          "--draft-model, else text on the CPU and on a Hopper GPU where an answer that is written alone is then the "
          "same to the last bit (no experts, no sliding window, one GPU), else off")
      ->check(CLI::IsMember({"auto", "off", "text", "self", "model"}))
      ->capture_default_str();
  command
      .add_option("--draft-weights", f.draft_weights,
                  "What the model guesses with under --speculate self. int4: a copy of its weights, which takes "
                  "about 0.3 of 16-bit weights' memory beside them, and with which it also guesses behind short texts; "
                  "served: the weights that answers are drawn with")
      ->check(CLI::IsMember({"served", "int4"}))
      ->capture_default_str();
  command
      .add_option(
          "--draft-model", f.draft_model,
          "A smaller model with the same tokenizer, a folder or a .gguf file: it reads the last tokens before an "
          "answer and guesses on, and the model checks its guesses; the answer stays the model's own. It takes "
          "its weights' memory, and a cache of fixed size, on rank 0")
      ->type_name("PATH");
}

void AddSparsityFlags(CLI::App& command, RuntimeFlags& f) {
  command
      .add_option(
          "--prefill-sparsity", f.prefill_sparsity,
          "Read long texts faster, NOT exactly: retrieval heads visit only the pages of 128 tokens that promise "
          "most. 0.25: a quarter of them; auto: as many as keep 0.98 of the attention in audits, auto:0.95 "
          "another share. What was read so says so for as long as it lives. Heads split over ranks stay exact; "
          "prompts share no prefixes then")
      ->check(CLI::Validator(
          [](const std::string& value) {
            return PrefillSparsityNamed(value).has_value()
                       ? std::string()
                       : absl::StrCat(
                             "expected off, auto, auto:SHARE or a share above 0 and below 1 with at most three decimal "
                             "places, found ",
                             value);
          },
          "off|auto|X"))
      ->capture_default_str();
}

void AddDecodeSparsityFlag(CLI::App& command, RuntimeFlags& f) {
  command
      .add_option(
          "--decode-sparsity", f.decode_sparsity,
          "Write answers behind long texts faster, NOT exactly: of 16 tokens of an answer one is drawn from all that "
          "was "
          "read, the others from the pages where it looked, by retrieval heads and from layer 2 on. 0.98, or auto: so "
          "many pages that each head had 0.98 of its attention on them, and 2,048 tokens at least. The dense tokens "
          "also measure what the pages kept, which is reported. Texts below 4,096 tokens, drafts, answers that become "
          "part of a session and heads split over ranks stay exact, and so do sessions and prefixes. The same question "
          "has the same answer only where the same call runs alone. Single facts lose little; answers that follow a "
          "chain of facts through the text can lose more: 11 to 32 of 100 in a small model made to show it")
      ->check(CLI::Validator(
          [](const std::string& value) {
            return DecodeSparsityNamed(value).has_value()
                       ? std::string()
                       : absl::StrCat(
                             "expected off, auto or a share above 0 and below 1 with at most three decimal "
                             "places, found ",
                             value);
          },
          "off|auto|X"))
      ->capture_default_str();
}

void AddKeyMeansFlag(CLI::App& command, RuntimeFlags& f) {
  command
      .add_option(
          "--key-means", f.key_means,
          "Keep keys without the mean of the model's keys, which changes no answer but leaves the codes of --kv int4 "
          "more levels for what tells tokens apart. on: by key_means.tsv in the pattern's folder; DIR: in that folder "
          "(duo identify --key-means makes it). Sessions saved so are restored only where the same means are on")
      ->type_name("off|on|DIR")
      ->capture_default_str()
      ->group("Memory");
}

void AddDeviceFlags(CLI::App& command, RuntimeFlags& f) {
  command.add_option("--device", f.device, "auto takes CUDA when there is a usable GPU")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str()
      ->group(kWhereGroup);
  command.add_option("--threads", f.threads, "CPU threads of this process (default: cores / local ranks)")
      ->check(CLI::Range(1, 4096))
      ->group(kWhereGroup);
  command
      .add_option("--comm", f.comm,
                  "How ranks talk: auto is nccl between GPUs, on one host with small messages through "
                  "their memory; nccl needs a GPU each, with mpi they may share one")
      ->check(CLI::IsMember({"auto", "mpi", "nccl"}))
      ->capture_default_str()
      ->group(kWhereGroup);
}

namespace {

// What the ranks must have in common before they can talk at all; the engine compares the rest.
std::vector<Fact> CommonFacts(const RuntimeFlags& flags, const Device& device, const std::string& device_note) {
  std::string kind = device.is_cuda() ? "a GPU" : "the CPU";
  if (!device_note.empty()) absl::StrAppend(&kind, " (", device_note, ")");
  return {{"the program (its build id)", BuildId()}, {"the device", kind}, {"--comm", flags.comm}};
}

// Opens this rank's device. Every rank must call it; all fail alike when one cannot, or has another command line.
absl::Status OpenDeviceOnAllRanks(const RuntimeFlags& flags, int threads, Runtime& runtime) {
  absl::StatusOr<std::unique_ptr<Device>> device = OpenDevice(flags, runtime.mpi.get(), threads, &runtime.device_note);
  absl::Status status = device.status();
  std::unique_ptr<Communicator> host;
  if (runtime.mpi != nullptr) {
    host = MakeHostCommunicator(*runtime.mpi);
    status = Agree(*host, status);
  }
  if (!status.ok()) return status;
  runtime.device = std::move(*device);
  if (host == nullptr) return status;
  runtime.device->ShareMemory(MemorySharers(*host, *runtime.mpi, *runtime.device));
  return AgreeOnFacts(*host, CommonFacts(flags, *runtime.device, runtime.device_note));
}

void Tell(const RuntimeFlags& flags, const std::string& line) {
  if (flags.tell) return flags.tell(line);
  std::fprintf(stderr, "%s\n", line.c_str());
}

absl::Status OpenParts(const RuntimeFlags& flags, const Launch& launch, Runtime& runtime) {
  if (launch.under_mpirun) runtime.mpi = MpiSession::Start();
  const int bound = BoundCores();
  const int cores = CoresWithinQuota(bound);
  if (launch.under_mpirun && launch.rank == 0 && bound == 1 && sysconf(_SC_NPROCESSORS_ONLN) > 1 &&
      flags.threads == 0) {
    Tell(flags, "mpirun has bound this rank to one core: it runs one thread (mpirun --bind-to none: more)");
  }
  const int local = runtime.mpi == nullptr ? 1 : runtime.mpi->local_size();
  const int threads = flags.threads > 0 ? flags.threads : std::max(1, cores / local);
  if (absl::Status s = OpenDeviceOnAllRanks(flags, threads, runtime); !s.ok()) return s;
  absl::StatusOr<CommKind> kind = ParseCommKind(flags.comm);
  if (!kind.ok()) return kind.status();
  absl::StatusOr<std::unique_ptr<Communicator>> comm = MakeCommunicator(*kind, runtime.mpi.get(), *runtime.device);
  if (!comm.ok()) return comm.status();
  runtime.comm = std::move(*comm);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Runtime> OpenRuntime(const RuntimeFlags& flags, const Launch& launch) {
  Runtime runtime;
  const absl::Status opened = OpenParts(flags, launch, runtime);
  if (opened.ok()) return runtime;
  // Of a run that comes to nothing MPI ends with the process, when rank 0 has said why: it ends on all ranks together,
  // and mpirun kills the others as soon as one has left.
  static std::unique_ptr<MpiSession> ending;
  ending = std::move(runtime.mpi);
  return opened;
}

EngineOptions MakeEngineOptions(const RuntimeFlags& flags, const Launch& launch) {
  EngineOptions options;
  options.model_dir = flags.model;
  options.program = launch.program;
  options.attention = *AttentionNamed(flags.attention);
  options.pattern_dir = flags.pattern;
  options.sparsity = flags.sparsity;
  options.threshold = flags.threshold;
  options.sink = flags.sink;
  options.recent = flags.recent;
  options.kv = KvFormatNamed(flags.kv);
  options.weights = WeightTypeNamed(flags.weights);
  options.weights_head = WeightTypeNamed(flags.weights_head);
  options.int8_group = Int8GroupNamed(flags.weights);
  options.strategy = *ParseStrategy(flags.strategy);
  options.prefill_split = *ParsePrefillSplit(flags.prefill_split);
  options.experts = *ParseExpertPlacement(flags.experts);
  options.rank_weights = flags.rank_weights;
  options.chunk = flags.chunk;
  options.max_wait = flags.max_wait;
  options.max_gap = flags.max_gap;
  options.speculate = *SpeculationNamed(flags.speculate);
  options.int4_drafts = flags.draft_weights == "int4";
  options.draft_model = flags.draft_model;
  options.prefill_sparsity = *PrefillSparsityNamed(flags.prefill_sparsity);
  options.key_means = flags.key_means != "off";
  if (options.key_means && flags.key_means != "on") options.key_means_dir = flags.key_means;
  options.decode_sparsity = *DecodeSparsityNamed(flags.decode_sparsity);
  return options;
}

absl::StatusOr<std::unique_ptr<Engine>> OpenEngine(const RuntimeFlags& flags, const EngineOptions& options,
                                                   Runtime& runtime) {
  return OpenEngine(flags, ProbeOptions{options, std::nullopt, ""}, runtime);
}

absl::StatusOr<std::unique_ptr<Engine>> OpenEngine(const RuntimeFlags& flags, ProbeOptions options, Runtime& runtime) {
  const auto tell = options.on_load;  // whoever else wants to know
  auto create = [&]() -> absl::StatusOr<std::unique_ptr<Engine>> {
    Progress progress("loading weights", "B", !runtime.leader() || flags.tell != nullptr);
    options.on_load = [&progress, tell](int64_t done, int64_t total) {
      progress.Update(done, total);
      if (tell) tell(done, total);
    };
    absl::StatusOr<std::unique_ptr<Engine>> made = EngineProbe::Create(options, *runtime.device, *runtime.comm);
    progress.Done();
    for (size_t i = 0; made.ok() && runtime.leader() && i < (*made)->notes().size(); ++i) {
      Tell(flags, (*made)->notes()[i]);
    }
    return made;
  };
  absl::StatusOr<std::unique_ptr<Engine>> engine = create();
  const bool no_room = absl::IsResourceExhausted(engine.status());
  if (engine.ok() || flags.device != "auto" || !runtime.device->is_cuda() || !no_room) {
    if (!runtime.device_note.empty() && runtime.leader() && flags.device == "auto" && engine.ok()) {
      Tell(flags, "running on the CPU: " + runtime.device_note);
      runtime.device_note.clear();  // some subcommands open several engines
    }
    return engine;
  }
  // The same on every rank: the engine's refusals are agreed on.
  if (runtime.leader()) Tell(flags, "running on the CPU: " + std::string(engine.status().message()));
  const int threads = runtime.device->pool().threads();
  runtime.comm.reset();
  runtime.device = Device::Cpu(threads);
  if (runtime.mpi != nullptr) runtime.device->ShareMemory(runtime.mpi->local_size());
  absl::StatusOr<std::unique_ptr<Communicator>> comm =
      MakeCommunicator(CommKind::kMpi, runtime.mpi.get(), *runtime.device);
  if (!comm.ok()) return comm.status();
  runtime.comm = std::move(*comm);
  return create();
}

int Fail(const absl::Status& status, bool leader) {
  if (leader) std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  return 1;
}

}  // namespace duo
