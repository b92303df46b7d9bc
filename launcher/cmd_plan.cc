#include "launcher/cmd_plan.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "attn_patterns/head_plan.h"
#include "attn_patterns/lookup.h"
#include "kernels/kv_codec.h"
#include "parallel/plan_render.h"
#include "runtime/config.h"

namespace duo {
namespace {

absl::StatusOr<ModelConfig> ReadConfig(const PlanOptions& options) {
  if (!options.model.empty()) return LoadConfig(options.model);
  std::ifstream file(options.config);
  std::ostringstream text;
  if (!file || !(text << file.rdbuf())) {
    return absl::NotFoundError(
        absl::StrCat(options.config, ": expected a model's config.json, found no readable file"));
  }
  return ParseConfig(text.str(), options.config);
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

absl::StatusOr<PartitionRequest> RequestOf(const PlanOptions& options) {
  const absl::StatusOr<ModelConfig> config = ReadConfig(options);
  if (!config.ok()) return config.status();
  PartitionRequest request;
  request.shape = {.layers = config->layers,
                   .hidden = static_cast<int>(config->hidden),
                   .intermediate = static_cast<int>(config->intermediate),
                   .heads = config->heads,
                   .kv_heads = config->kv_heads,
                   .head_dim = config->head_dim,
                   .vocab = static_cast<int>(config->vocab)};

  const absl::StatusOr<FoundPattern> pattern =
      options.pattern.empty()
          ? FindPattern(options.model, config->layers, config->kv_heads, PatternRoots(ProgramPath()))
          : OpenPattern(options.pattern, config->layers, config->kv_heads);
  if (!pattern.ok()) return pattern.status();
  absl::StatusOr<HeadPlan> heads = options.threshold >= 0 ? PlanByThreshold(pattern->pattern, options.threshold)
                                                          : PlanBySparsity(pattern->pattern, options.sparsity);
  if (!heads.ok()) return heads.status();
  request.heads = *std::move(heads);

  const absl::StatusOr<int64_t> kv_bytes = KvTokenBytesOf(options.kv, config->head_dim);
  if (!kv_bytes.ok()) return kv_bytes.status();
  request.kv_token_bytes = *kv_bytes;
  const absl::StatusOr<int> weight_bits = WeightBitsOf(options.weights, *config);
  if (!weight_bits.ok()) return weight_bits.status();
  request.weight_bits = *weight_bits;
  const absl::StatusOr<Strategy> strategy = ParseStrategy(options.strategy);
  if (!strategy.ok()) return strategy.status();
  request.strategy = *strategy;
  request.world = options.world;
  request.rank_weights = options.rank_weights;
  request.context = options.context;
  return request;
}

}  // namespace

absl::Status Plan(const PlanOptions& options) {
  const absl::StatusOr<PartitionRequest> request = RequestOf(options);
  if (!request.ok()) return request.status();
  const absl::StatusOr<std::vector<Partition>> strategies = AllStrategies(*request);
  if (!strategies.ok()) return strategies.status();
  if (!options.svg.empty()) {
    std::ofstream file(options.svg);
    file << PlanSvg(*request, strategies->front());
    if (!file.flush()) {
      return absl::UnavailableError(absl::StrCat(options.svg, ": expected a file that can be written, found none"));
    }
  }
  const std::string text = options.json ? PlanJson(*strategies) : PlanTable(*request, *strategies);
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    return absl::UnavailableError("stdout: expected to write the plan, found it closed or full");
  }
  return absl::OkStatus();
}

void AddPlanCommand(CLI::App& app, int* exit_code) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* command = app.add_subcommand("plan", "Show which rank holds which attention head, and how even that is");
  CLI::Option* model = command->add_option("--model", options->model, "The model's folder");
  CLI::Option* config = command->add_option("--config", options->config, "Or its config.json alone")->excludes(model);
  CLI::Option* pattern = command->add_option("--pattern", options->pattern, "The pattern's folder");
  CLI::Option* sparsity = command->add_option("--sparsity", options->sparsity, "Share of streaming heads")
                              ->check(CLI::Range(0.0, 1.0))
                              ->capture_default_str();
  command->add_option("--threshold", options->threshold, "Or: gates from here up are retrieval heads")
      ->check(CLI::Range(0.0, 1.0))
      ->excludes(sparsity);
  command->add_option("--world", options->world, "Ranks")->required()->check(CLI::PositiveNumber);
  command->add_option("--rank-weights", options->rank_weights, "Relative speed of each rank: a,b,..")->delimiter(',');
  command->add_option("--context", options->context, "Tokens that the cost model aims at; K and M are 10^3 and 10^6")
      ->transform(CLI::AsNumberWithUnit(std::map<std::string, int64_t>{{"K", 1000}, {"M", 1000000}}))
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--kv", options->kv, "KV format; auto is bf16")
      ->check(CLI::IsMember({"auto", "f32", "bf16", "fp8", "int8", "int4"}))
      ->capture_default_str();
  command->add_option("--weights", options->weights, "Weight type; auto is the stored one")
      ->check(CLI::IsMember({"auto", "f32", "bf16", "fp8", "int8", "int4"}))
      ->capture_default_str();
  command->add_option("--strategy", options->strategy, "How to place heads")
      ->check(CLI::IsMember({"auto", "contiguous", "heads", "split"}))
      ->capture_default_str();
  command->add_option("--svg", options->svg, "Also draw the plan into this file");
  command->add_flag("--json", options->json, "One JSON object instead of the table");
  command->callback([options, exit_code, model, config, pattern] {
    if (model->empty() && config->empty()) throw CLI::RequiredError("--model or --config");
    if (model->empty() && pattern->empty()) throw CLI::RequiredError("--pattern (with --config)");
    const absl::Status status = Plan(*options);
    if (!status.ok()) std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
    *exit_code = status.ok() ? 0 : 1;
  });
}

}  // namespace duo
