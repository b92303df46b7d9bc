#include "launcher/plan_request.h"

#include <memory>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "attn_patterns/head_plan.h"
#include "attn_patterns/lookup.h"
#include "kernels/base/device.h"
#include "kernels/base/read_file.h"
#include "kernels/kv_codec.h"
#include "launcher/terminal/format_names.h"
#include "launcher/terminal/runtime_flags.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/kv/window_rings.h"
#include "runtime/weights/cut_unit.h"
#include "runtime/weights/fingerprint.h"
#include "runtime/weights/matrix_bits.h"
#include "runtime/weights/mixed_formats.h"
#include "runtime/weights/model_shape.h"
#include "runtime/weights/supported_quantization.h"
#include "runtime/weights/weights.h"

namespace duo {
namespace {

// Which heads keep everything. `note`: what the user should know of a choice made for him; or empty.
absl::StatusOr<HeadPlan> HeadsOf(const PlanFlags& flags, const ModelConfig& config, const Launch& launch,
                                 std::string* note) {
  if (flags.attention == "full") return FullPlan(config.layers, config.kv_heads);
  if (flags.attention == "streaming") return StreamingPlan(config.layers, config.kv_heads);
  absl::StatusOr<FoundPattern> pattern = absl::NotFoundError("a config.json alone has no pattern; give --pattern DIR");
  if (!flags.pattern.empty()) {
    pattern = OpenPattern(flags.pattern, config.layers, config.kv_heads);
  } else if (!flags.model.empty()) {
    pattern =
        FindPattern(IdentityOf(flags.model, config), config.layers, config.kv_heads, PatternRoots(launch.program));
  }
  if (flags.attention == "auto" && flags.pattern.empty() && absl::IsNotFound(pattern.status())) {
    *note =
        "full attention: no pattern says which heads of this model need it (give one with --pattern DIR, or make one "
        "with duo identify)";
    return FullPlan(config.layers, config.kv_heads);
  }
  if (!pattern.ok()) return pattern.status();
  return flags.threshold >= 0 ? PlanByThreshold(pattern->pattern, flags.threshold)
                              : PlanBySparsity(pattern->pattern, flags.sparsity);
}

}  // namespace

absl::StatusOr<ModelConfig> ReadConfig(const PlanFlags& flags) {
  if (!flags.model.empty()) return LoadConfig(flags.model);
  const absl::StatusOr<std::string> text = ReadFile(flags.config);
  if (!text.ok()) return text.status();
  return ParseConfig(*text, flags.config);
}

absl::StatusOr<WeightFormats> GroupFormats(const PlanFlags& flags, const ModelConfig& config) {
  if (absl::Status s = CheckSupported(config.quantization, flags.model.empty() ? flags.config : flags.model); !s.ok())
    return s;
  if (!flags.model.empty()) {
    const absl::StatusOr<SafetensorsModel> files = SafetensorsModel::Open(flags.model);
    if (files.ok()) return ChooseFormats(*files, config, /*on_cuda=*/true, {});
  }
  return FormatsOfGroups(config, /*on_cuda=*/true);
}

WeightFormats FormatsOf(const PlanFlags& flags, const ModelConfig& config) {
  const std::optional<DType> asked = WeightTypeNamed(flags.weights);
  const QuantizationConfig& stored = config.quantization;
  if (!asked.has_value() && stored.kind == QuantizationKind::kMxfp4) return MixedFormats(config, true, kMxfp4Weights);
  if (!asked.has_value() && stored.kind == QuantizationKind::kGguf) {
    const absl::StatusOr<SafetensorsModel> files = SafetensorsModel::Open(flags.model);
    absl::StatusOr<WeightFormats> chosen =
        files.ok() ? ChooseFormats(*files, config, /*on_cuda=*/true, {}) : files.status();
    if (chosen.ok()) return *std::move(chosen);  // what is wrong with the file, whoever loads it says
  }
  if (!asked.has_value() && stored.mixed()) {
    absl::StatusOr<WeightFormats> chosen = GroupFormats(flags, config);
    if (chosen.ok()) return *std::move(chosen);
  }
  WeightFormats formats;
  formats.matrices = asked.value_or(DType::kBF16);  // f32 and f16 become bf16 there
  for (const DType type : {DType::kF8E4M3, DType::kI8, DType::kI4}) {
    if (!asked.has_value() && StoredBits(stored) == Bits(type)) formats.matrices = type;
  }
  formats.int8_group = Int8GroupNamed(flags.weights);
  if (!asked.has_value() && stored.block_cols > 0) {
    const std::optional<CodeFormat> blocks = ScaleBlockFormat(stored.block_rows, stored.block_cols);
    const bool held = blocks.has_value() && blocks->group >= 64;  // on CUDA
    formats.matrices = held ? DType::kF8E4M3 : DType::kBF16;
    formats.int8_group = held ? blocks->group : 0;
  }
  formats.int4_group = config.hidden < 2048 ? 32 : 128;
  return formats;
}

int64_t UnitOf(const PlanFlags& flags, const ModelConfig& config, int64_t columns, int world) {
  return CutUnit(config.quantization, {WeightTypeNamed(flags.weights), Int8GroupNamed(flags.weights)}, columns, world);
}

std::string GpuOf(const PlanFlags& flags) {
  if (flags.gpu == "h100") return "H100";
  if (flags.gpu == "h200") return "H200";
  if (Device::CudaDeviceCount() == 0) return "";
  const absl::StatusOr<std::unique_ptr<Device>> gpu = Device::Cuda(0, 1);
  return gpu.ok() ? (*gpu)->info().name : "";
}

absl::StatusOr<PartitionRequest> RequestOf(const PlanFlags& flags, const ModelConfig& config, const Launch& launch,
                                           std::string* note) {
  PartitionRequest request;
  request.shape = ShapeOf(config);
  absl::StatusOr<HeadPlan> heads = HeadsOf(flags, config, launch, note);
  if (!heads.ok()) return heads.status();
  request.heads = *std::move(heads);
  KeepWindowsInRings(config, &request.heads);

  request.kv_token_bytes = KvTokenBytes(KvFormatNamed(flags.kv).value_or(KvFormat::kBF16), config.head_dim);
  request.weight_bits = MatrixBits(config, FormatsOf(flags, config));
  const absl::StatusOr<Strategy> strategy = ParseStrategy(flags.strategy);
  if (!strategy.ok()) return strategy.status();
  request.strategy = *strategy;
  const absl::StatusOr<ExpertPlacement> experts = ParseExpertPlacement(flags.experts);
  if (!experts.ok()) return experts.status();
  request.experts = *experts;
  request.expert_unit = UnitOf(flags, config, config.experts.intermediate, flags.world);
  request.world = flags.world;
  request.rank_weights = flags.rank_weights;
  request.context = flags.context > 0 ? flags.context : MaxPositions(config);
  request.reads_per_step = ReadsPerStep(request.context);
  request.rates = RatesOfGpu(GpuOf(flags));
  return request;
}

}  // namespace duo
