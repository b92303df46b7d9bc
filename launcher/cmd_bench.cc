// `duo bench VERB`: registers the verbs; launcher/bench/ does the work.

#include "absl/strings/str_cat.h"
#include "launcher/bench/bench.h"
#include "launcher/commands.h"

namespace duo {
namespace {

int RunBench(const std::string& verb, BenchFlags& flags, const Launch& launch) {
  absl::StatusOr<Runtime> runtime = OpenRuntime(flags.runtime, launch);
  if (!runtime.ok()) return Fail(runtime.status(), launch.rank == 0);
  const absl::Status status = verb == "decode"       ? BenchDecode(flags, launch, *runtime)
                              : verb == "prefill"    ? BenchPrefill(flags, launch, *runtime)
                              : verb == "capacity"   ? BenchCapacity(flags, launch, *runtime)
                              : verb == "attention"  ? BenchAttention(flags, *runtime)
                              : verb == "perplexity" ? BenchPerplexity(flags, launch, *runtime)
                                                     : BenchComm(flags, *runtime);
  return status.ok() ? 0 : Fail(status, launch.rank == 0);
}

}  // namespace

void AddBenchCommand(CLI::App& app, Launch& launch) {
  CLI::App* bench = app.add_subcommand(
      "bench", "Measure decode, prefill and collectives against their floors, and what formats cost in perplexity");
  bench->require_subcommand(1);
  bench->footer(
      "Examples:\n"
      "  duo bench decode --shape llama-3-8b --context 100000,1000000 --kv int4 --attention duo,full\n"
      "  duo bench prefill --shape llama-3-8b --context 1000000 --sample\n"
      "  duo bench capacity --shape llama-3-8b --kv int4 --weights int8\n"
      "  duo bench perplexity --model DIR --text book.txt --attention full --weights int4 --kv int8\n"
      "  mpirun -n 2 duo bench comm");
  auto flags = std::make_shared<BenchFlags>();
  const std::vector<std::pair<const char*, const char*>> verbs = {
      {"decode", "One decode step with the cache filled to a length"},
      {"prefill", "Reading a document of random tokens"},
      {"capacity", "The longest document that fits, filled, read to its end and decoded"},
      {"attention", "Single kernels, each verified first"},
      {"perplexity", "How well a model predicts a text, for a format of weights and KV cache and a kind of attention"},
      {"comm", "Latency and bandwidth of the collectives (under mpirun)"}};
  for (const auto& [verb, help] : verbs) {
    CLI::App* command = bench->add_subcommand(verb, help);
    AddRuntimeFlags(*command, flags->runtime, /*model_required=*/std::string(verb) == "perplexity");
    command->add_flag("--json", flags->json, "Print one JSON object");
    command->callback([flags, verb = std::string(verb), &launch] {
      launch.chosen = [flags, verb, &launch] { return RunBench(verb, *flags, launch); };
    });
    if (std::string(verb) == "comm") continue;
    if (std::string(verb) == "perplexity") {
      command->add_option("--text", flags->text, "The text, read as one and cut into windows")
          ->required()
          ->type_name("FILE");
      command
          ->add_option("--window", flags->window,
                       "Tokens of a window, BOS included where the tokenizer has one; each is read on its own and all "
                       "but its first token are predicted")
          ->check(CLI::Range(2, 1 << 24))
          ->capture_default_str();
      command->add_option("--tokens", flags->tokens, "Of the text's tokens at most (default: all)")
          ->check(CLI::PositiveNumber);
      continue;
    }
    if (std::string(verb) == "capacity") {
      command->add_option("--most", flags->most, "Tokens at most, for example the model's window (default: what fits)")
          ->check(CLI::PositiveNumber);
    } else {
      command->add_option("--context", flags->contexts, "Tokens in the cache; several: a,b,c")
          ->delimiter(',')
          ->check(CLI::PositiveNumber)
          ->capture_default_str();
    }
    if (std::string(verb) == "attention") continue;
    command->add_option("--shape", flags->shape, absl::StrCat("Without --model: random weights of ", ShapeNames()))
        ->capture_default_str();
    command->remove_option(command->get_option("--attention"));
    command->add_option("--attention", flags->attentions, "duo, full, or both: duo,full")
        ->delimiter(',')
        ->check(CLI::IsMember({"duo", "full"}))
        ->capture_default_str();
    if (std::string(verb) == "decode") {
      command->add_option("--steps", flags->steps, "Timed steps")->check(CLI::Range(8, 10000))->capture_default_str();
      command->add_option("--simulate-rank", flags->simulate, "Time rank r's share of N alone, on this device")
          ->type_name("r/N");
    } else if (std::string(verb) == "prefill") {
      command->add_flag("--sample", flags->sample,
                        "Time chunks at five histories and integrate, instead of reading it all");
    }
  }
}

}  // namespace duo
