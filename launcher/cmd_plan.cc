// `duo plan`: shows, without loading a model, which rank would hold which attention head, how even that is, and how
// long a decode step would take by the cost model. Needs no GPU, no MPI and no weights.

#include <cstdio>
#include <fstream>
#include <map>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "attn_patterns/head_plan.h"
#include "attn_patterns/lookup.h"
#include "kernels/base/read_file.h"
#include "kernels/kv_codec.h"
#include "launcher/plan_render.h"
#include "launcher/terminal/commands.h"
#include "launcher/terminal/runtime_flags.h"
#include "runtime/weights/config.h"
#include "runtime/weights/model_shape.h"

namespace duo {
namespace {

struct PlanFlags {
  std::string model;    // folder with config.json; or
  std::string config;   // the config.json itself
  std::string pattern;  // folder; empty: looked up by the model folder's name
  double sparsity = 0.5;
  double threshold = -1;  // below 0: by sparsity
  int world = 1;
  std::vector<double> rank_weights;  // [world] or empty
  int64_t context = 1'000'000;       // tokens
  std::string kv = "auto", weights = "auto", strategy = "auto";
  std::string svg;  // file to write; empty: none
  bool json = false;
};

absl::StatusOr<ModelConfig> ReadConfig(const PlanFlags& flags) {
  if (!flags.model.empty()) return LoadConfig(flags.model);
  const absl::StatusOr<std::string> text = ReadFile(flags.config);
  if (!text.ok()) return text.status();
  return ParseConfig(*text, flags.config);
}

absl::StatusOr<int64_t> KvTokenBytesOf(const std::string& name, int head_dim) {
  for (const KvFormat f : {KvFormat::kF32, KvFormat::kBF16, KvFormat::kFp8, KvFormat::kInt8, KvFormat::kInt4}) {
    if (name == Name(f) || (name == "auto" && f == KvFormat::kBF16)) return KvTokenBytes(f, head_dim);
  }
  return absl::InvalidArgumentError(absl::StrCat("--kv: unknown format '", name, "'"));
}

absl::StatusOr<int> WeightBitsOf(const std::string& name, const ModelConfig& config) {
  if (name == "auto")
    return config.quantization.weights.bits > 0 ? config.quantization.weights.bits : Bits(config.dtype);
  for (const DType t : {DType::kF32, DType::kBF16, DType::kF8E4M3, DType::kI8, DType::kI4}) {
    if (name == Name(t)) return Bits(t);
  }
  return absl::InvalidArgumentError(absl::StrCat("--weights: unknown type '", name, "'"));
}

absl::StatusOr<PartitionRequest> RequestOf(const PlanFlags& flags, const Launch& launch) {
  const absl::StatusOr<ModelConfig> config = ReadConfig(flags);
  if (!config.ok()) return config.status();
  PartitionRequest request;
  request.shape = ShapeOf(*config);

  const absl::StatusOr<FoundPattern> pattern =
      flags.pattern.empty() ? FindPattern(flags.model, config->layers, config->kv_heads, PatternRoots(launch.program))
                            : OpenPattern(flags.pattern, config->layers, config->kv_heads);
  if (!pattern.ok()) return pattern.status();
  absl::StatusOr<HeadPlan> heads = flags.threshold >= 0 ? PlanByThreshold(pattern->pattern, flags.threshold)
                                                        : PlanBySparsity(pattern->pattern, flags.sparsity);
  if (!heads.ok()) return heads.status();
  request.heads = *std::move(heads);

  const absl::StatusOr<int64_t> kv_bytes = KvTokenBytesOf(flags.kv, config->head_dim);
  if (!kv_bytes.ok()) return kv_bytes.status();
  request.kv_token_bytes = *kv_bytes;
  const absl::StatusOr<int> weight_bits = WeightBitsOf(flags.weights, *config);
  if (!weight_bits.ok()) return weight_bits.status();
  request.weight_bits = *weight_bits;
  const absl::StatusOr<Strategy> strategy = ParseStrategy(flags.strategy);
  if (!strategy.ok()) return strategy.status();
  request.strategy = *strategy;
  request.world = flags.world;
  request.rank_weights = flags.rank_weights;
  request.context = flags.context;
  return request;
}

// Prints the table or the JSON to stdout and writes the drawing.
absl::Status Plan(const PlanFlags& flags, const Launch& launch) {
  const absl::StatusOr<PartitionRequest> request = RequestOf(flags, launch);
  if (!request.ok()) return request.status();
  const absl::StatusOr<std::vector<Partition>> strategies = AllStrategies(*request);
  if (!strategies.ok()) return strategies.status();
  if (!flags.svg.empty()) {
    std::ofstream file(flags.svg);
    file << PlanSvg(*request, strategies->front());
    if (!file.flush()) {
      return absl::UnavailableError(absl::StrCat(flags.svg, ": expected a file that can be written, found none"));
    }
  }
  const std::string text = flags.json ? PlanJson(*strategies) : PlanTable(*request, *strategies);
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    return absl::UnavailableError("stdout: expected to write the plan, found it closed or full");
  }
  return absl::OkStatus();
}

int RunPlan(const PlanFlags& flags, const Launch& launch) {
  if (launch.rank != 0) return 0;  // reads files only: under mpirun one rank does
  const absl::Status status = Plan(flags, launch);
  return status.ok() ? 0 : Fail(status);
}

}  // namespace

void AddPlanCommand(CLI::App& app, Launch& launch) {
  auto flags = std::make_shared<PlanFlags>();
  const std::vector<std::string> formats = {"auto", "f32", "bf16", "fp8", "int8", "int4"};
  CLI::App* command =
      app.add_subcommand("plan", "Show which rank would hold which attention head, and how even that is");
  command->footer("Example:\n  duo plan --model DIR --pattern DIR --world 8 --context 1M --kv int4");
  CLI::Option* model = command->add_option("--model", flags->model, "Model folder")->type_name("DIR");
  CLI::Option* config = command->add_option("--config", flags->config, "Or a config.json alone")->type_name("FILE");
  config->excludes(model);
  CLI::Option* pattern =
      command->add_option("--pattern", flags->pattern, "Head pattern; default: looked up by the model's name")
          ->type_name("DIR");
  CLI::Option* sparsity = command->add_option("--sparsity", flags->sparsity, "Share of streaming heads, 0 to 1")
                              ->check(CLI::Range(0.0, 1.0))
                              ->capture_default_str();
  command->add_option("--threshold", flags->threshold, "Or: keep heads whose gate is at least this")
      ->check(CLI::Range(0.0, 1.0))
      ->excludes(sparsity);
  command->add_option("--world", flags->world, "Ranks")->required()->check(CLI::Range(1, 4096));
  command->add_option("--rank-weights", flags->rank_weights, "Unequal ranks: their shares, e.g. 2,1,1")
      ->delimiter(',')
      ->type_name("W,W,...");
  command->add_option("--context", flags->context, "Tokens that the cost model aims at; K is 1,000, M is 1,000,000")
      ->transform(CLI::AsNumberWithUnit(std::map<std::string, int64_t>{{"K", 1000}, {"M", 1000000}}))
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--kv", flags->kv, "KV cache format; auto: bf16")
      ->check(CLI::IsMember(formats))
      ->capture_default_str();
  command->add_option("--weights", flags->weights, "Weight format; auto: as stored")
      ->check(CLI::IsMember(formats))
      ->capture_default_str();
  command->add_option("--strategy", flags->strategy, "How heads are placed on ranks")
      ->check(CLI::IsMember({"auto", "contiguous", "heads", "split"}))
      ->capture_default_str();
  command->add_option("--svg", flags->svg, "Also draw the plan into this file")->type_name("FILE");
  command->add_flag("--json", flags->json, "Print one JSON object");
  command->callback([flags, model, config, pattern, &launch] {
    if (model->empty() && config->empty()) throw CLI::RequiredError("--model or --config");
    if (model->empty() && pattern->empty()) throw CLI::RequiredError("--pattern (with --config)");
    launch.chosen = [flags, &launch] { return RunPlan(*flags, launch); };
  });
}

}  // namespace duo
