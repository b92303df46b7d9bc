#include "runtime/weights/quantization_config.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "runtime/files/json_fields.h"
#include "runtime/files/printable.h"
#include "runtime/weights/compressed_tensors_config.h"

namespace duo {
namespace {

constexpr int64_t kMaxGroup = 1 << 20;
constexpr char kMethods[] = "compressed-tensors, awq, gptq, fp8, mxfp4, fbgemm_fp8, modelopt (FP8)";
constexpr size_t kShownGroups = 8, kShownTargets = 3;  // a checkpoint may have thousands, a message is one line

void SetGroup(int64_t group, QuantizationScheme& scheme) {  // AWQ and GPTQ: -1 is one group a channel
  scheme.granularity = group > 0 ? QuantizationGranularity::kGroup : QuantizationGranularity::kChannel;
  scheme.group_size = group > 0 ? static_cast<int>(group) : 0;
}

QuantizationConfig ParseAwq(JsonFields& fields) {
  QuantizationConfig config;
  config.kind = QuantizationKind::kAwq;
  config.format = fields.String("version", "gemm");
  config.weights.bits = static_cast<int>(fields.Int("bits", 2, 8, 4));
  SetGroup(fields.Int("group_size", -1, kMaxGroup, 128), config.weights);
  config.weights.symmetric = !fields.Bool("zero_point", true);
  config.ignore = fields.Strings("modules_to_not_convert");
  return config;
}

QuantizationConfig ParseGptq(JsonFields& fields) {
  QuantizationConfig config;
  config.kind = QuantizationKind::kGptq;
  config.format = fields.String("checkpoint_format", "gptq");
  config.weights.bits = static_cast<int>(fields.Int("bits", 2, 8));
  SetGroup(fields.Int("group_size", -1, kMaxGroup, 128), config.weights);
  config.weights.symmetric = fields.Bool("sym", true);
  config.activation_order = fields.Bool("desc_act", false);
  if (fields.Has("dynamic") && !fields.Find("dynamic")->empty()) {
    fields.Fail(
        "quantization_config.dynamic (modules with settings of their own) is not supported; use an edition of the "
        "checkpoint without it, or one in 16 bits with --weights int4");
  }
  return config;
}

// transformers' fine-grained fp8: e4m3 with one scale for each block.
QuantizationConfig ParseFp8(JsonFields& fields) {
  QuantizationConfig config;
  config.kind = QuantizationKind::kFp8Blocks;
  config.weights = {
      .bits = 8, .type = QuantizationType::kFloat, .granularity = QuantizationGranularity::kGroup, .group_size = 128};
  config.ignore = fields.Strings("modules_to_not_convert");
  const std::string format = fields.String("fmt", "e4m3");
  if (format != "e4m3") {
    fields.Fail(
        absl::StrCat("quantization_config.fmt \"", Printable(format), "\" is not supported; supported is e4m3"));
  }
  if (fields.IsNull("weight_block_size")) {
    config.weights.granularity = QuantizationGranularity::kTensor;
    config.weights.group_size = 0;
    config.format = "e4m3 with a scale for each tensor";
    return config;
  }
  std::vector<int> block = {128, 128};
  if (fields.Has("weight_block_size")) block = fields.Ids("weight_block_size");
  if (fields.ok() && (block.size() != 2 || block[0] < 1 || block[1] < 1)) {
    fields.Fail("quantization_config.weight_block_size must be two whole numbers from 1 on");
    return config;
  }
  if (!fields.ok()) return config;
  config.block_rows = block[0];
  config.block_cols = config.weights.group_size = block[1];
  config.format = absl::StrCat("e4m3 in blocks of ", block[0], " x ", block[1]);
  return config;
}

std::string WeightsText(const QuantizationScheme& weights, int block_rows, int block_cols) {
  if (weights.bits == 0) return "16-bit";
  std::string text = block_rows > 0
                         ? absl::StrCat(weights.bits, "-bit float in blocks of ", block_rows, " x ", block_cols)
                         : Describe(weights);
  return weights.symmetric ? text : text + " with zero points";
}

// fbgemm's fp8: e4m3 with a scale for each row. NVIDIA's ModelOpt: one for each tensor; its other formats are refused.
QuantizationConfig ParseWholeFp8(JsonFields& fields, bool modelopt) {
  QuantizationConfig config;
  config.kind = QuantizationKind::kFp8Blocks;
  config.weights = {.bits = 8,
                    .type = QuantizationType::kFloat,
                    .granularity = modelopt ? QuantizationGranularity::kTensor : QuantizationGranularity::kChannel};
  config.format = modelopt ? "e4m3 with a scale for each tensor" : "e4m3 with a scale for each row";
  config.ignore = fields.Strings(modelopt ? "ignore" : "modules_to_not_convert");
  const std::string algorithm = modelopt ? fields.String("quant_algo", "none") : "FP8";
  if (algorithm != "FP8") {
    fields.Fail(absl::StrCat(
        "quantization_config.quant_algo \"", Printable(algorithm), "\" is not supported; supported is FP8: ",
        "use another edition of the checkpoint, for example in 16 bits with --weights fp8 or int4"));
  }
  return config;
}

// The first of them, and how many there are beside.
std::string Some(const std::vector<std::string>& texts, size_t most, const char* between) {
  const size_t shown = std::min(texts.size(), most);
  const std::string text = absl::StrJoin(texts.begin(), texts.begin() + static_cast<int64_t>(shown), between);
  return shown == texts.size() ? text : absl::StrCat(text, " and ", texts.size() - shown, " more");
}

std::string TargetsText(const std::vector<ModuleTarget>& targets) {
  std::vector<std::string> texts;
  for (const ModuleTarget& target : targets) texts.push_back(Printable(target.text()));
  return Some(texts, kShownTargets, " ");
}

}  // namespace

absl::StatusOr<QuantizationConfig> ParseQuantizationConfig(std::string_view json, const std::string& file) {
  auto root = ParseJsonObject(json, absl::StrCat(file, ": quantization_config"));
  if (!root.ok()) return root.status();
  JsonFields fields(*root, file, "quantization_config.");
  const std::string method = fields.String("quant_method", "");
  QuantizationConfig config;
  if (method == "awq") {
    config = ParseAwq(fields);
  } else if (method == "gptq") {
    config = ParseGptq(fields);
  } else if (method == "compressed-tensors") {
    config = ParseCompressedTensors(fields, file);
  } else if (method == "fp8") {
    config = ParseFp8(fields);
  } else if (method == "fbgemm_fp8" || method == "modelopt") {
    config = ParseWholeFp8(fields, method == "modelopt");
  } else if (method == "mxfp4") {  // experts alone; the tensors say which
    config.kind = QuantizationKind::kMxfp4;
    config.format = "e2m1";
    config.weights = {
        .bits = 4, .type = QuantizationType::kFloat, .granularity = QuantizationGranularity::kGroup, .group_size = 32};
    config.ignore = fields.Strings("modules_to_not_convert");
  } else if (fields.ok() && !fields.Has("quant_method")) {
    return absl::UnimplementedError(
        absl::StrCat(file, ": quantization_config.quant_method is missing; supported are ", kMethods));
  } else if (fields.ok()) {
    return absl::UnimplementedError(
        absl::StrCat(file, ": quantization \"", Printable(method), "\" is not supported; supported are ", kMethods));
  }
  if (!fields.ok()) return fields.status();
  return config;
}

QuantizationConfig ConfigOf(const QuantizationConfig& config, std::string_view module) {
  if (!config.mixed()) return config;
  const QuantizationGroup* group = TakenBy(config, module).group;
  return group == nullptr || group->weights.bits == 0 ? QuantizationConfig() : AsConfig(*group);
}

std::string_view ModuleOf(std::string_view weight_name) {
  constexpr std::string_view kWeight = ".weight";
  return weight_name.substr(0, weight_name.size() - std::min(weight_name.size(), kWeight.size()));
}

std::string Describe(const QuantizationScheme& scheme) {
  std::string text = absl::StrCat(scheme.bits, "-bit ", scheme.type == QuantizationType::kInt ? "int" : "float");
  switch (scheme.granularity) {
    case QuantizationGranularity::kTensor:
      return text + " per tensor";
    case QuantizationGranularity::kChannel:
      return text + " per channel";
    case QuantizationGranularity::kGroup:
      return absl::StrCat(text, " in groups of ", scheme.group_size);
  }
  return text;
}

std::string Describe(const QuantizationConfig& config) {
  std::string kind;
  switch (config.kind) {
    case QuantizationKind::kNone:
      return "none";
    case QuantizationKind::kCompressedTensors:
      kind = "compressed-tensors";
      break;
    case QuantizationKind::kAwq:
      kind = "AWQ";
      break;
    case QuantizationKind::kGptq:
      kind = "GPTQ";
      break;
    case QuantizationKind::kGguf:
      return absl::StrCat("GGUF: ", config.format);
    case QuantizationKind::kMxfp4:
      kind = "MXFP4";
      break;
    case QuantizationKind::kFp8Blocks:
      return absl::StrCat("fp8 ", config.format);
  }
  if (config.mixed()) {
    std::vector<std::string> groups;
    for (const QuantizationGroup& group : config.groups) {
      groups.push_back(absl::StrCat(Printable(group.name), " ", Printable(group.format), " ",
                                    WeightsText(group.weights, group.block_rows, group.block_cols), " of ",
                                    TargetsText(group.targets)));
    }
    return absl::StrCat(kind, " ", Printable(config.format), ": ", Some(groups, kShownGroups, "; "));
  }
  std::string text = absl::StrCat(kind, " ", Printable(config.format), ", weights ",
                                  WeightsText(config.weights, config.block_rows, config.block_cols));
  if (config.activations.bits > 0) absl::StrAppend(&text, ", activations ", Describe(config.activations));
  return text;
}

}  // namespace duo
