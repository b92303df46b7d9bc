#include "runtime/weights/quantization_config.h"

#include "absl/strings/str_cat.h"
#include "runtime/files/json_fields.h"

namespace duo {
namespace {

constexpr int64_t kMaxGroup = 1 << 20;

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
    fields.Fail("quantization_config.dynamic (modules with settings of their own) is not supported");
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
    fields.Fail(absl::StrCat("quantization_config.fmt \"", format, "\" is not supported; supported is e4m3"));
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

// block_rows: of the strategy "block"; else as it was.
QuantizationScheme ParseScheme(const nlohmann::json& value, const std::string& file, const std::string& inside,
                               JsonFields& errors, int* block_rows) {
  QuantizationScheme scheme;
  if (!value.is_object()) {
    errors.Fail(absl::StrCat(inside, " must be an object, found ", Shown(value)));
    return scheme;
  }
  JsonFields fields(value, file, inside + ".");
  scheme.bits = static_cast<int>(fields.Int("num_bits", 2, 16, 8));
  const std::string type = fields.String("type", "int");
  if (type == "float") {
    scheme.type = QuantizationType::kFloat;
  } else if (type != "int") {
    fields.Fail(absl::StrCat(inside, ".type \"", type, "\" is not supported; supported are int, float"));
  }
  const int64_t group = fields.Int("group_size", -1, kMaxGroup, 0);
  const std::string strategy = fields.String("strategy", group > 0 ? "group" : group < 0 ? "channel" : "tensor");
  if (strategy == "tensor") {
    scheme.granularity = QuantizationGranularity::kTensor;
  } else if (strategy == "channel" || strategy == "token") {
    // A token is the channel of an activation: one scale a row.
    scheme.granularity = QuantizationGranularity::kChannel;
  } else if (strategy == "block") {
    scheme.granularity = QuantizationGranularity::kGroup;
    std::vector<int> block;
    if (fields.Has("block_structure")) block = fields.Ids("block_structure");
    if (fields.ok() && (block.size() != 2 || block[0] < 1 || block[1] < 1)) {
      fields.Fail(absl::StrCat(inside, ".block_structure must be two whole numbers from 1 on"));
    } else if (fields.ok()) {
      *block_rows = block[0];
      scheme.group_size = block[1];
    }
  } else if (strategy == "group") {
    scheme.granularity = QuantizationGranularity::kGroup;
    if (group <= 0) fields.Fail(absl::StrCat(inside, ".group_size must be positive for groups, found ", group));
    scheme.group_size = static_cast<int>(group);
  } else {
    fields.Fail(absl::StrCat(inside, ".strategy \"", strategy, "\" is not supported; supported are tensor, channel, ",
                             "token, group, block"));
  }
  scheme.symmetric = fields.Bool("symmetric", true);
  // true, false or "local", which recomputes within a group.
  const nlohmann::json* dynamic = fields.Find("dynamic");
  scheme.dynamic = dynamic && (dynamic->is_string() || fields.Bool("dynamic", false));
  errors.Adopt(fields.status());
  return scheme;
}

QuantizationConfig ParseCompressedTensors(JsonFields& fields, const std::string& file) {
  QuantizationConfig config;
  config.kind = QuantizationKind::kCompressedTensors;
  config.format = fields.String("format", "dense");
  config.ignore = fields.Strings("ignore");
  const nlohmann::json* groups = fields.Find("config_groups");
  if (!groups || !groups->is_object() || groups->empty()) {
    fields.Fail("quantization_config.config_groups must be an object with one group, found none");
    return config;
  }
  if (groups->size() > 1) {
    fields.Fail(
        absl::StrCat("quantization_config with ", groups->size(), " config_groups is not supported; expected 1"));
    return config;
  }
  const auto first = groups->begin();
  const nlohmann::json& group = *first;
  const std::string inside = absl::StrCat("quantization_config.config_groups.", first.key());
  if (!group.is_object()) {
    fields.Fail(absl::StrCat(inside, " must be an object, found ", Shown(group)));
    return config;
  }
  JsonFields inner(group, file, inside + ".");
  config.targets = inner.Strings("targets");
  config.format = inner.String("format", config.format);
  if (const nlohmann::json* weights = inner.Find("weights")) {
    config.weights = ParseScheme(*weights, file, inside + ".weights", inner, &config.block_rows);
    if (config.block_rows > 0) config.block_cols = config.weights.group_size;
    // "group" permutes the columns; "weight" and "static" only chose the order in which they were rounded.
    config.activation_order = weights->is_object() && weights->value("actorder", nlohmann::json()) == "group";
  } else {
    inner.Fail(absl::StrCat(inside, ".weights must be an object, found none"));
  }
  if (const nlohmann::json* activations = inner.Find("input_activations")) {
    int rows_of_activations = 0;  // a block of theirs is a group of one row's
    config.activations = ParseScheme(*activations, file, inside + ".input_activations", inner, &rows_of_activations);
  }
  if (inner.Has("output_activations")) inner.Fail(absl::StrCat(inside, ".output_activations is not supported"));
  fields.Adopt(inner.status());
  if (fields.Has("kv_cache_scheme")) fields.Fail("quantization_config.kv_cache_scheme is not supported; duo has --kv");
  const nlohmann::json* sparsity = fields.Find("sparsity_config");
  if (sparsity && sparsity->is_object() && sparsity->value("format", nlohmann::json("dense")) != "dense") {
    fields.Fail("quantization_config.sparsity_config (sparse weights) is not supported");
  }
  return config;
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
  } else if (method == "mxfp4") {  // experts alone; the tensors say which
    config.kind = QuantizationKind::kMxfp4;
    config.format = "e2m1";
    config.weights = {
        .bits = 4, .type = QuantizationType::kFloat, .granularity = QuantizationGranularity::kGroup, .group_size = 32};
    config.ignore = fields.Strings("modules_to_not_convert");
  } else if (fields.ok()) {
    return absl::UnimplementedError(
        absl::StrCat(file, ": quantization \"", method,
                     "\" is not supported; supported are compressed-tensors, awq, gptq, fp8, mxfp4"));
  }
  if (!fields.ok()) return fields.status();
  return config;
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
  const auto scheme = [](const QuantizationScheme& s) {
    std::string text = absl::StrCat(s.bits, "-bit ", s.type == QuantizationType::kInt ? "int" : "float");
    switch (s.granularity) {
      case QuantizationGranularity::kTensor:
        return text + " per tensor";
      case QuantizationGranularity::kChannel:
        return text + " per channel";
      case QuantizationGranularity::kGroup:
        return absl::StrCat(text, " in groups of ", s.group_size);
    }
    return text;
  };
  std::string text = absl::StrCat(kind, " ", config.format, ", weights ",
                                  config.block_rows > 0 ? absl::StrCat(config.weights.bits, "-bit float in blocks of ",
                                                                       config.block_rows, " x ", config.block_cols)
                                                        : scheme(config.weights));
  if (!config.weights.symmetric) text += " with zero points";
  if (config.activations.bits > 0) absl::StrAppend(&text, ", activations ", scheme(config.activations));
  return text;
}

}  // namespace duo
