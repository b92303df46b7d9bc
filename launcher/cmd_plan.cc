// `duo plan`: shows, without loading a model, which rank would hold which attention head, how even that is, and how
// long a decode step would take by the cost model. Needs no GPU, no MPI and no weights.

#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "launcher/plan_memory.h"
#include "launcher/plan_render.h"
#include "launcher/plan_request.h"
#include "launcher/plan_simulate.h"
#include "launcher/terminal/checks.h"
#include "launcher/terminal/commands.h"
#include "launcher/terminal/format_names.h"
#include "launcher/terminal/progress.h"
#include "launcher/terminal/runtime_flags.h"
#include "launcher/terminal/weight_formats_json.h"
#include "runtime/weights/config.h"
#include "runtime/weights/format_shares.h"
#include "runtime/weights/held_weights.h"
#include "runtime/weights/model_shape.h"

namespace duo {
namespace {

// Empty for a model without experts.
std::string DescribeExperts(const ModelConfig& config, const PartitionRequest& request, const Partition& partition) {
  if (config.experts.count == 0) return "";
  std::string text =
      absl::StrFormat("%d of %d experts work on a token: %s of %s parameters, ", config.experts.chosen,
                      config.experts.count, Grouped(CountActiveParameters(config)), Grouped(CountParameters(config)));
  absl::StrAppend(&text,
                  partition.whole_experts ? "each expert whole on one rank\n" : "each expert cut over the ranks\n");
  if (partition.world == 1) return text;
  const ModelledSeconds &split = partition.with_split_experts, &whole = partition.with_whole_experts;
  absl::StrAppendFormat(
      &text, "modelled with experts:   split %.3f ms a step, %.1f s to read   whole %.3f ms, %.1f s   (%s)\n",
      split.step * 1e3, split.read, whole.step * 1e3, whole.read,
      request.experts == ExpertPlacement::kAuto ? "the cheaper for a whole document" : "as asked");
  return text;
}

// The plan's object with what this subcommand adds to it.
std::string JsonWith(const std::string& plan, const ModelConfig& config, const PartitionRequest& request,
                     const Partition& partition, const RankMemory& memory, const std::vector<FormatShare>& formats) {
  nlohmann::ordered_json out = nlohmann::ordered_json::parse(plan);
  out["context"] = request.context;
  out["retrieval_heads"] = request.heads.retrieval_heads();
  out["streaming_heads"] = request.heads.streaming_heads();
  out["memory"] = {{"weights", memory.weights}, {"kv", memory.kv}};
  out["weight_formats"] = WeightFormatsJson(formats);
  if (config.experts.count > 0) {
    out["parameters"] = CountParameters(config);
    out["active_parameters"] = CountActiveParameters(config);
    out["experts"] = {
        {"placement", Name(partition.whole_experts ? ExpertPlacement::kWhole : ExpertPlacement::kSplit)},
        {"step_seconds", {{"split", partition.with_split_experts.step}, {"whole", partition.with_whole_experts.step}}},
        {"read_seconds", {{"split", partition.with_split_experts.read}, {"whole", partition.with_whole_experts.read}}}};
  }
  if (memory.gpu > 0) {
    out["memory"]["gpu"] = memory.gpu;
    out["memory"]["fits"] = memory.fits();
  }
  return out.dump() + "\n";
}

absl::Status Print(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    return absl::UnavailableError("stdout: expected to write the plan, found it closed or full");
  }
  return absl::OkStatus();
}

// One GPU first, which the others are compared with.
absl::Status Simulate(const PlanFlags& flags, const ModelConfig& config, const PartitionRequest& request) {
  SimulatedHosts hosts;
  hosts.gpu = absl::StrContains(GpuOf(flags), "H200") ? "H200" : "H100";
  hosts.per_host = flags.per_host;
  hosts.links.link = static_cast<double>(flags.link);
  hosts.links.message_seconds = flags.message_us * 1e-6;
  std::vector<int> sizes = {1};
  for (const int world : flags.simulate) {
    if (world > 1) sizes.push_back(world);
  }
  std::vector<SimulatedWorld> worlds;
  int64_t gpu = 0, done = 0;
  Progress progress("simulating", "GPUs", false);
  for (const int world : sizes) {
    progress.Update(done, std::accumulate(sizes.begin(), sizes.end(), int64_t{0}));
    done += world;
    Partition partition;
    PartitionRequest of_world = request;
    of_world.expert_unit = UnitOf(flags, config, config.experts.intermediate, world);
    absl::StatusOr<SimulatedWorld> row = SimulateWorld(of_world, world, hosts.per_host, hosts.links, &partition);
    if (!row.ok()) return row.status();
    const RankMemory memory = MemoryOf(flags, config, request, partition, hosts.per_host);
    row->weights = memory.weights;
    row->kv = memory.kv;
    row->weights_by_rows = memory.weights + memory.peers;
    row->fits = memory.gpu == 0 || memory.fits();
    row->fits_by_rows = memory.gpu == 0 || memory.fits_by_rows();
    gpu = memory.gpu;
    worlds.push_back(*row);
  }
  const std::string assumed =
      absl::StrCat(Grouped(request.context), " tokens on GPUs like the ", hosts.gpu, "; ", hosts.per_host,
                   hosts.per_host == 1 ? " GPU" : " GPUs", " a host, hosts joined by ", ByteCount(hosts.links.link),
                   " a second and ", flags.message_us, " us a message (--gpus-per-host, --host-link, --host-message)");
  return Print(flags.json ? SimulationJson(worlds, request, hosts, gpu) : SimulationTable(worlds, assumed, gpu));
}

// Prints the table or the JSON to stdout and writes the drawing.
absl::Status Plan(const PlanFlags& flags, const Launch& launch) {
  const absl::StatusOr<ModelConfig> config = ReadConfig(flags);
  if (!config.ok()) return config.status();
  if (config->quantization.mixed() && flags.weights == "auto") {
    if (absl::Status s = GroupFormats(flags, *config).status(); !s.ok()) return s;
  }
  std::string note;
  const absl::StatusOr<PartitionRequest> request = RequestOf(flags, *config, launch, &note);
  if (!request.ok()) return request.status();
  if (!note.empty()) std::fprintf(stderr, "%s\n", note.c_str());
  if (!flags.simulate.empty()) return Simulate(flags, *config, *request);
  const absl::StatusOr<std::vector<Partition>> strategies = AllStrategies(*request);
  if (!strategies.ok()) return strategies.status();
  if (!flags.svg.empty()) {
    std::ofstream file(flags.svg);
    file << PlanSvg(*request, strategies->front());
    if (!file.flush()) {
      return absl::UnavailableError(absl::StrCat(flags.svg, ": expected a file that can be written, found none"));
    }
  }
  const RankMemory memory = MemoryOf(flags, *config, *request, strategies->front(), flags.world);
  const std::vector<FormatShare> formats = FormatShares(*config, FormatsOf(flags, *config));
  const std::string text =
      flags.json ? JsonWith(PlanJson(*strategies), *config, *request, strategies->front(), memory, formats)
                 : PlanTable(*request, *strategies) + DescribeExperts(*config, *request, strategies->front()) +
                       Describe(memory, Text(formats), request->context);
  return Print(text);
}

int RunPlan(const PlanFlags& flags, const Launch& launch) {
  if (launch.rank != 0) return 0;  // reads files only: under mpirun one rank does
  const absl::Status status = Plan(flags, launch);
  return status.ok() ? 0 : Fail(status);
}

}  // namespace

void AddPlanCommand(CLI::App& app, Launch& launch) {
  auto flags = std::make_shared<PlanFlags>();
  CLI::App* command =
      app.add_subcommand("plan", "Show which rank would hold which attention head, and how even that is");
  command->footer(
      "Examples:\n"
      "  duo plan --model DIR --pattern DIR --world 8 --context 1M --kv int4\n"
      "  duo plan --model DIR --simulate 8,16,32,64 --context 1M --kv int4 --gpu h200");
  CLI::Option* model =
      command->add_option("--model", flags->model, "Model: a folder or a .gguf file")->type_name("PATH");
  CLI::Option* config = command->add_option("--config", flags->config, "Or a config.json alone")->type_name("FILE");
  config->excludes(model);
  command->add_option("--pattern", flags->pattern, "Head pattern; default: looked up by the model's name or weights")
      ->type_name("DIR");
  CLI::Option* sparsity = command->add_option("--sparsity", flags->sparsity, "Share of streaming heads, 0 to 1")
                              ->check(CLI::Range(0.0, 1.0))
                              ->capture_default_str();
  command->add_option("--threshold", flags->threshold, "Or: keep heads whose gate is at least this")
      ->check(CLI::Range(0.0, 1.0))
      ->excludes(sparsity);
  CLI::Option* world = command->add_option("--world", flags->world, "Ranks")->check(CLI::Range(1, 4096));
  CLI::Option* simulate =
      command->add_option("--simulate", flags->simulate, "Or: what is expected of so many GPUs; several: 8,16,64")
          ->delimiter(',')
          ->check(CLI::Range(1, 4096))
          ->excludes(world)
          ->type_name("N,N,...");
  command->add_option("--gpus-per-host", flags->per_host, "GPUs of a host")
      ->check(CLI::Range(1, 4096))
      ->needs(simulate)
      ->capture_default_str();
  command->add_option("--host-link", flags->link, "What a host sends to the others in a second")
      ->transform(SizeWithUnit())
      ->needs(simulate)
      ->default_str("50GB")
      ->type_name("SIZE");
  command->add_option("--host-message", flags->message_us, "Microseconds of a small collective of two hosts")
      ->check(ZeroOrMore())
      ->needs(simulate)
      ->capture_default_str()
      ->type_name("US");
  CLI::Option* svg = command->add_option("--svg", flags->svg, "Also draw the plan into this file")->type_name("FILE");
  svg->excludes(simulate);
  CLI::Option* weights =
      command->add_option("--rank-weights", flags->rank_weights, "Unequal ranks: their shares, e.g. 2,1,1")
          ->delimiter(',')
          ->check(AboveZero())
          ->type_name("W,W,...");
  weights->excludes(simulate);
  command
      ->add_option("--attention", flags->attention,
                   "duo, full or streaming; auto: duo where the model has a pattern, else full")
      ->check(CLI::IsMember({"auto", "duo", "full", "streaming"}))
      ->capture_default_str();
  command
      ->add_option("--gpu-memory", flags->gpu_memory,
                   "Say whether a rank fits so much memory, as 80GB (default: the GPU at hand)")
      ->transform(SizeWithUnit())
      ->check(CLI::Validator(
          [](const std::string& bytes) {
            return std::strtod(bytes.c_str(), nullptr) < 1e6 ? absl::StrCat(bytes, " bytes are no GPU's: write 80GB")
                                                             : std::string();
          },
          ""))
      ->type_name("SIZE");
  command
      ->add_option("--gpu", flags->gpu,
                   "What the modelled times are of: h100, h200; auto: the GPU at hand if it is one of these, else h100")
      ->check(CLI::IsMember({"auto", "h100", "h200"}))
      ->capture_default_str();
  command
      ->add_option("--context", flags->context,
                   "Tokens that the cost model aims at; K is 1,000, M is 1,000,000 (default: the model's own length)")
      ->transform(TokensWithUnit())
      ->type_name("TOKENS");
  command->add_option("--kv", flags->kv, "KV cache format; auto: bf16")
      ->check(CLI::IsMember(KvFormatNames()))
      ->capture_default_str();
  command
      ->add_option(
          "--weights", flags->weights,
          "Weight format; auto: as stored; int8:32: a scale for every 32 columns; fp8:128x128: one for each block")
      ->check(CLI::IsMember(WeightFormatNames()))
      ->capture_default_str();
  command->add_option("--strategy", flags->strategy, "How heads are placed on ranks")
      ->check(CLI::IsMember({"auto", "contiguous", "heads", "split"}))
      ->capture_default_str();
  command
      ->add_option(
          "--experts", flags->experts,
          "How experts of a mixture lie on ranks: split: a part of each on every rank; whole: all of some; auto: "
          "the cheaper by the cost model (a program with --draft-weights int4 takes whole where that copy cannot be "
          "cut)")
      ->check(CLI::IsMember({"auto", "split", "whole"}))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "Print one JSON object");
  command->callback([flags, model, config, world, simulate, &launch] {
    if (model->empty() && config->empty()) throw CLI::RequiredError("--model or --config");
    if (world->empty() && simulate->empty()) throw CLI::RequiredError("--world or --simulate");
    if (const size_t given = flags->rank_weights.size(); given > 0 && given != static_cast<size_t>(flags->world)) {
      throw CLI::ValidationError("--rank-weights",
                                 absl::StrFormat("expected one for each of %d ranks, found %d", flags->world, given));
    }
    launch.chosen = [flags, &launch] { return RunPlan(*flags, launch); };
  });
}

}  // namespace duo
