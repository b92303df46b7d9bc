// `duo bench VERB`: registers the verbs; launcher/bench/ does the work.

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "kernels/row_cuts.h"
#include "launcher/bench/bench.h"
#include "launcher/terminal/checks.h"
#include "launcher/terminal/commands.h"
#include "launcher/terminal/format_names.h"
#include "launcher/terminal/runtime_checks.h"
#include "runtime/weights/mixed_formats.h"

namespace duo {
namespace {

int RunBench(const std::string& verb, BenchFlags& flags, const Launch& launch) {
  absl::StatusOr<Runtime> runtime = OpenRuntime(flags.runtime, launch);
  if (!runtime.ok()) return Fail(runtime.status(), launch.rank == 0);
  const absl::Status status = verb == "decode"       ? BenchDecode(flags, launch, *runtime)
                              : verb == "drafts"     ? BenchDrafts(flags, launch, *runtime)
                              : verb == "balance"    ? BenchBalance(flags, launch, *runtime)
                              : verb == "prefill"    ? BenchPrefill(flags, launch, *runtime)
                              : verb == "capacity"   ? BenchCapacity(flags, launch, *runtime)
                              : verb == "attention"  ? BenchAttention(flags, *runtime)
                              : verb == "gradients"  ? BenchGradients(flags, *runtime)
                              : verb == "perplexity" ? BenchPerplexity(flags, launch, *runtime)
                              : verb == "recall"     ? BenchRecall(flags, launch, *runtime)
                              : verb == "identify"   ? BenchIdentify(flags, *runtime)
                                                     : BenchComm(flags, *runtime);
  return status.ok() ? 0 : Fail(status, launch.rank == 0);
}

// Why a value of --shape or --simulate-rank is refused; empty when it is not.
std::string ShapeRefusal(std::string& name) {
  return ShapeNamed(name).ok() ? "" : absl::StrCat("expected one of ", ShapeNames(), ", found ", name);
}
std::string RankShareRefusal(std::string& share) {
  int rank = 0, world = 0, end = 0;
  const bool read = std::sscanf(share.c_str(), "%d/%d%n", &rank, &world, &end) == 2;
  return read && end == static_cast<int>(share.size()) && rank >= 0 && rank < world
             ? ""
             : absl::StrCat("expected r/N with 0 <= r < N, for example 0/4, found ", share);
}

// What would be refused later, after minutes perhaps: weights for ranks that are played, or for those that run.
void CheckWorlds(const std::string& verb, const BenchFlags& flags, const Launch& launch) {
  if (verb == "balance") {
    for (const int world : flags.worlds) CheckRankWeights(flags.runtime, world);
    return;
  }
  int rank = 0, world = launch.world;
  if (!flags.simulate.empty()) std::sscanf(flags.simulate.c_str(), "%d/%d", &rank, &world);
  CheckRankWeights(flags.runtime, world);
}

// What the verbs share that run a whole model, given or made of random weights. several: duo and full in one run.
void AddModelFlags(CLI::App& command, BenchFlags& flags, bool several) {
  AddRuntimeFlags(command, flags.runtime, /*model_required=*/!several);
  if (!several) return;
  command.get_option("--model")->description("Model: a folder or a .gguf file (default: random weights of --shape)");
  command.add_option("--shape", flags.shape, absl::StrCat("Random weights of this shape: ", ShapeNames()))
      ->check(CLI::Validator(ShapeRefusal, ""))
      ->capture_default_str();
  std::vector<std::string> weights = WeightFormatNames();
  weights.insert(weights.end(), {kMixedWeights, kMxfp4Weights});
  command.remove_option(command.get_option("--weights"));
  command
      .add_option(
          "--weights", flags.runtime.weights,
          absl::StrCat("Format of the weights; auto: as stored, random ones bf16; int8:32: a scale for every 32 "
                       "columns (others on the CPU); fp8:128x128: one for each block of 128 rows and columns; ",
                       kMixedWeights, ": of random ones, GGUF's mixture of 4 and 6 bits; ", kMxfp4Weights,
                       ": of random ones, experts as gpt-oss has them"))
      ->check(CLI::IsMember(weights))
      ->capture_default_str()
      ->group("Memory");
  command.remove_option(command.get_option("--attention"));
  command.add_option("--attention", flags.attentions, "What to measure; both, one after the other: duo,full")
      ->delimiter(',')
      ->check(CLI::IsMember({"duo", "full"}))
      ->capture_default_str();
}

void AddContexts(CLI::App& command, BenchFlags& flags) {
  command.add_option("--context", flags.contexts, "Tokens in the cache; several: 100K,1M")
      ->delimiter(',')
      ->transform(TokensWithUnit())
      ->capture_default_str();
}

// What every verb of `duo bench` has.
struct VerbMaker {
  CLI::App* bench;
  std::shared_ptr<BenchFlags> flags;
  Launch* launch;

  CLI::App* operator()(const char* name, const char* help, const char* examples) const {
    CLI::App* command = bench->add_subcommand(name, help);
    command->footer(examples);
    command->add_flag("--json", flags->json, "Print one JSON object");
    command->callback([flags = flags, name = std::string(name), launch = launch] {
      CheckWorlds(name, *flags, *launch);
      launch->chosen = [flags, name, launch] { return RunBench(name, *flags, *launch); };
    });
    return command;
  }
};

void AddStepVerbs(const VerbMaker& verb, BenchFlags* flags) {
  CLI::App* decode =
      verb("decode", "One decode step with the cache filled to a length",
           "Example:\n"
           "  duo bench decode --shape llama-3-8b --context 100000,1000000 --kv int4 --attention duo,full");
  AddModelFlags(*decode, *flags, /*several=*/true);
  AddContexts(*decode, *flags);
  decode->add_option("--steps", flags->steps, "Timed steps")->check(CLI::Range(8, 10000))->capture_default_str();
  decode->add_option("--forks", flags->forks, "Answers on so many forks of the document in one step; several: a,b")
      ->delimiter(',')
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  decode->add_option("--rows", flags->rows, "Tokens that the document grows by in one step; several: a,b")
      ->delimiter(',')
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  AddDecodeSparsityFlag(*decode, flags->runtime);
  decode->add_option("--simulate-rank", flags->simulate, "Time rank r's share of N alone, on this device")
      ->check(CLI::Validator(RankShareRefusal, ""))
      ->type_name("r/N");

  CLI::App* drafts =
      verb("drafts", "What steps take that check drafts or guess them, beside a plain one, and whether rows draw alike",
           "Examples:\n"
           "  duo bench drafts --shape llama-3-8b --context 1000000 --kv int4 --draft-weights int4 --rows 8\n"
           "  duo bench drafts --model DIR --text book.txt --context 1000 --drawn 7000");
  AddModelFlags(*drafts, *flags, /*several=*/true);
  AddContexts(*drafts, *flags);
  drafts->add_option("--steps", flags->steps, "Timed steps of each kind")
      ->check(CLI::Range(8, 10000))
      ->capture_default_str();
  drafts->add_option("--rows", flags->checks, "Rows of a step that checks drafts; several: a,b")
      ->delimiter(',')
      ->check(CLI::Range(2, kExactRows))
      ->capture_default_str();
  drafts->add_option("--share", flags->share, "Thousandths of the attention that guesses by lists see")
      ->check(CLI::Range(1, 999))
      ->capture_default_str();
  drafts->add_option("--draft-weights", flags->runtime.draft_weights, "int4: guesses are also timed by an int4 copy")
      ->check(CLI::IsMember({"served", "int4"}))
      ->capture_default_str();
  drafts
      ->add_option("--drawn", flags->drawn,
                   "Also draw so many tokens one by one and again in steps of 16 rows, on GPUs of 8, at temperatures 0 "
                   "and 1, and count those drawn otherwise")
      ->check(CLI::Range(kExactRows, 1 << 20));
  drafts
      ->add_option("--text", flags->text,
                   "With --model: the cache holds the beginning of this text instead of random codes, and tokens are "
                   "drawn behind each of its next ones")
      ->type_name("FILE")
      ->needs(drafts->get_option("--model"));

  CLI::App* balance =
      verb("balance", "The busiest of N ranks in every layer of a decode step, measured on one device, and as modelled",
           "Example:\n"
           "  duo bench balance --shape llama-3-8b --pattern DIR --context 1000000 --kv int4 --world 2,4,8");
  AddModelFlags(*balance, *flags, /*several=*/true);
  AddContexts(*balance, *flags);
  balance->add_option("--steps", flags->steps, "Timed steps of each rank")
      ->check(CLI::Range(8, 10000))
      ->capture_default_str();
  balance->add_option("--world", flags->worlds, "Ranks; several: a,b,c")
      ->delimiter(',')
      ->check(CLI::Range(2, 4096))
      ->capture_default_str();
  balance->remove_option(balance->get_option("--strategy"));
  balance->add_option("--strategy", flags->strategies, "How heads are placed on ranks; several: a,b")
      ->delimiter(',')
      ->check(CLI::IsMember({"auto", "contiguous", "heads", "split"}))
      ->capture_default_str();
}

void AddLengthVerbs(const VerbMaker& verb, BenchFlags* flags) {
  CLI::App* prefill = verb("prefill", "Reading a document of random tokens",
                           "Examples:\n"
                           "  duo bench prefill --shape smollm2-135m --context 4000 --device cpu\n"
                           "  duo bench prefill --shape llama-3-8b --context 1000000 --sample");
  AddModelFlags(*prefill, *flags, /*several=*/true);
  AddContexts(*prefill, *flags);
  AddSparsityFlags(*prefill, flags->runtime);
  prefill->add_flag("--sample", flags->sample,
                    "Time chunks at five histories and integrate, instead of reading it all");

  CLI::App* capacity = verb("capacity", "The longest document that fits, filled, read to its end and decoded",
                            "Example:\n  duo bench capacity --shape llama-3-8b --kv int4 --weights int8");
  AddModelFlags(*capacity, *flags, /*several=*/true);
  capacity->add_option("--most", flags->most, "Tokens at most, for example the model's window (default: what fits)")
      ->transform(TokensWithUnit());
}

void AddKernelVerbs(const VerbMaker& verb, BenchFlags* flags) {
  CLI::App* attention = verb("attention", "Single kernels, each verified first",
                             "Example:\n  duo bench attention --context 10000,100000 --device cpu");
  AddDeviceFlags(*attention, flags->runtime);
  AddContexts(*attention, *flags);
  attention->add_option("--kernels", flags->kernels, "Which; several: a,b")
      ->delimiter(',')
      ->check(CLI::IsMember(KernelGroups()))
      ->capture_default_str();

  CLI::App* gradients = verb("gradients", "The gradients that identifying heads needs, each verified first",
                             "Example:\n  duo bench gradients --shape smollm2-135m --tokens 4096 --device cpu");
  AddDeviceFlags(*gradients, flags->runtime);
  gradients->add_option("--shape", flags->shape, absl::StrCat("The model's sizes: ", ShapeNames()))
      ->check(CLI::Validator(ShapeRefusal, ""))
      ->capture_default_str();
  gradients->add_option("--tokens", flags->tokens, "Of the sequence (default: 32768)")->transform(TokensWithUnit());
}

void AddPerplexityVerb(const VerbMaker& verb, BenchFlags* flags) {
  CLI::App* perplexity = verb(
      "perplexity", "How well a model predicts a text, for a format of weights and KV cache and a kind of attention",
      "Example:\n  duo bench perplexity --model DIR --text book.txt --attention full --weights int4 --kv int8");
  AddModelFlags(*perplexity, *flags, /*several=*/false);
  AddSparsityFlags(*perplexity, flags->runtime);
  AddKeyMeansFlag(*perplexity, flags->runtime);
  perplexity->add_option("--text", flags->text, "The text, read as one and cut into windows")
      ->required()
      ->type_name("FILE");
  perplexity
      ->add_option("--window", flags->window,
                   "Tokens of a window, BOS included where the tokenizer has one; each is read on its own and all "
                   "but its first token are predicted")
      ->check(CLI::Range(2, 1 << 24))
      ->transform(TokensWithUnit())  // before the range is looked at
      ->capture_default_str();
  perplexity->add_option("--tokens", flags->tokens, "Of the text's tokens at most (default: all)")
      ->transform(TokensWithUnit());
}

// Why a value of --prefill-sparsity or --decode-sparsity is refused; empty when it is not. Dense is measured anyway.
std::string PrefillRefusal(std::string& value) {
  const std::optional<PrefillSparsity> named = PrefillSparsityNamed(value);
  return named.has_value() && named->on() ? "" : "expected auto, auto:X or X, above 0 and below 1, found " + value;
}
std::string DecodeRefusal(std::string& value) {
  const std::optional<DecodeSparsity> named = DecodeSparsityNamed(value);
  return named.has_value() && named->on() ? "" : "expected auto or X, above 0 and below 1, found " + value;
}

void AddRecallVerb(const VerbMaker& verb, BenchFlags* flags) {
  CLI::App* recall =
      verb("recall", "Which questions about documents a model answers right, read or written sparsely, beside dense",
           "Example:\n"
           "  python3 tests/bench/recall_tasks.py --tokens 32000 --documents 2 --out docs\n"
           "  duo bench recall --model DIR --questions docs/*.json --prefill-sparsity auto:0.95,auto:0.98");
  AddModelFlags(*recall, *flags, /*several=*/false);
  recall
      ->add_option("--questions", flags->questions,
                   "JSON: a document's file and questions, as recall_tasks.py and needle_document.py write it")
      ->required()
      ->type_name("FILE");
  recall
      ->add_option("--asked", flags->asked,
                   "Of each task's questions that are asked behind a document at most; those inside it are all judged "
                   "(default: all)")
      ->check(ZeroOrMore());
  recall->add_option("--prefill-sparsity", flags->prefill_sparsities, "Measured beside dense reading; several: a,b")
      ->delimiter(',')
      ->check(CLI::Validator(PrefillRefusal, ""));
  recall->add_option("--decode-sparsity", flags->decode_sparsities, "Measured beside dense writing; several: a,b")
      ->delimiter(',')
      ->check(CLI::Validator(DecodeRefusal, ""));
}

void AddIdentifyVerb(const VerbMaker& verb, BenchFlags* flags) {
  CLI::App* identify =
      verb("identify", "One training step of duo identify, its memory, and what the paper's run would take",
           "Example:\n  duo bench identify --shape llama-3-8b --context 32000");
  identify->add_option("--shape", flags->shape, absl::StrCat("Random weights of this shape: ", ShapeNames()))
      ->check(CLI::Validator(ShapeRefusal, ""))
      ->capture_default_str();
  identify
      ->add_option("--context", flags->length, "Tokens of the longest sequence; a half and a quarter are timed, too")
      ->transform(TokensWithUnit())
      ->check(CLI::Range(64, 1 << 24))
      ->capture_default_str();
  identify
      ->add_option("--sink", flags->runtime.sink, "First tokens that the student's streaming heads keep (default 64)")
      ->check(ZeroOrMore());
  identify->add_option("--recent", flags->runtime.recent, "Last tokens that they keep (default 256)")
      ->check(AboveZero());
  identify->add_option("--repeat", flags->repeat, "Timed steps of each length")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  AddDeviceFlags(*identify, flags->runtime);
}

void AddCommVerb(const VerbMaker& verb, BenchFlags* flags) {
  CLI::App* comm =
      verb("comm", "Latency and bandwidth of the collectives (under mpirun)", "Example:\n  mpirun -n 2 duo bench comm");
  AddDeviceFlags(*comm, flags->runtime);
  comm->parse_complete_callback([launch = verb.launch] {
    if (!launch->under_mpirun) throw CLI::ValidationError("bench comm needs several ranks: mpirun -n N duo bench comm");
  });
}

}  // namespace

void AddBenchCommand(CLI::App& app, Launch& launch) {
  CLI::App* bench = app.add_subcommand(
      "bench", "Measure decode, prefill, collectives, what formats and sparsity cost, a service under load");
  bench->require_subcommand(1);
  bench->footer(
      "Examples:\n"
      "  duo bench decode --shape llama-3-8b --context 100000,1000000 --kv int4 --attention duo,full\n"
      "  duo bench perplexity --model DIR --text book.txt --weights int4 --kv int8\n"
      "Help on one of them: duo bench SUBCOMMAND --help");
  auto flags = std::make_shared<BenchFlags>();
  const VerbMaker verb{bench, flags, &launch};
  for (const auto add :
       {AddStepVerbs, AddLengthVerbs, AddKernelVerbs, AddPerplexityVerb, AddRecallVerb, AddIdentifyVerb, AddCommVerb}) {
    add(verb, flags.get());
  }
  AddBenchServe(*bench, launch);
}

}  // namespace duo
