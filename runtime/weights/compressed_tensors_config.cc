#include "runtime/weights/compressed_tensors_config.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "runtime/files/printable.h"

namespace duo {
namespace {

constexpr int64_t kMaxGroup = 1 << 20;

void ReadNumbers(const std::string& inside, JsonFields& fields, QuantizationScheme& scheme) {
  scheme.bits = static_cast<int>(fields.Int("num_bits", 2, 16, 8));
  const std::string type = fields.String("type", "int");
  if (type == "float") {
    scheme.type = QuantizationType::kFloat;
  } else if (type != "int") {
    fields.Fail(absl::StrCat(inside, ".type \"", Printable(type), "\" is not supported; supported are int, float"));
  }
}

// Its numbers alone: nothing else of it is used, so nothing else can be in the way.
QuantizationScheme ParseCache(const nlohmann::json& value, const std::string& file, JsonFields& errors) {
  const std::string inside = "quantization_config.kv_cache_scheme";
  QuantizationScheme scheme;
  if (!value.is_object()) {
    errors.Fail(absl::StrCat(inside, " must be an object, found ", Shown(value)));
    return scheme;
  }
  JsonFields fields(value, file, inside + ".");
  ReadNumbers(inside, fields, scheme);
  errors.Adopt(fields.status());
  return scheme;
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
  ReadNumbers(inside, fields, scheme);
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
    fields.Fail(absl::StrCat(inside, ".strategy \"", Printable(strategy),
                             "\" is not supported; supported are tensor, channel, ", "token, group, block"));
  }
  scheme.symmetric = fields.Bool("symmetric", true);
  // true, false or "local", which recomputes within a group.
  const nlohmann::json* dynamic = fields.Find("dynamic");
  scheme.dynamic = dynamic && (dynamic->is_string() || fields.Bool("dynamic", false));
  errors.Adopt(fields.status());
  return scheme;
}

// The same as a mixture's format says of one of its groups, which name theirs.
constexpr char kMixedFormat[] = "mixed-precision";

std::vector<ModuleTarget> ParseTargets(const std::vector<std::string>& texts, const std::string& inside,
                                       JsonFields& fields) {
  std::vector<ModuleTarget> targets;
  for (const std::string& text : texts) {
    absl::StatusOr<ModuleTarget> target = ModuleTarget::Parse(text);
    if (!target.ok()) {
      fields.Fail(absl::StrCat(inside, ": ", target.status().message()));
      return {};
    }
    targets.push_back(*std::move(target));
  }
  return targets;
}

// A group as it is written. format: the config's, where the group says none of its own.
QuantizationGroup ParseGroup(const std::string& name, const nlohmann::json& group, const std::string& format,
                             const std::string& file, JsonFields& errors, std::vector<std::string>* targets) {
  QuantizationGroup out;
  out.name = name;
  const std::string inside = absl::StrCat("quantization_config.config_groups.", Printable(name));
  if (!group.is_object()) {
    errors.Fail(absl::StrCat(inside, " must be an object, found ", Shown(group)));
    return out;
  }
  JsonFields inner(group, file, inside + ".");
  *targets = inner.Strings("targets");
  out.format = inner.String("format", format);
  if (const nlohmann::json* weights = inner.Find("weights")) {
    out.weights = ParseScheme(*weights, file, inside + ".weights", inner, &out.block_rows);
    if (out.block_rows > 0) out.block_cols = out.weights.group_size;
    // "group" permutes the columns; "weight" and "static" only chose the order in which they were rounded.
    out.activation_order = weights->is_object() && weights->value("actorder", nlohmann::json()) == "group";
    if (out.format == kMixedFormat) {
      inner.Fail(absl::StrCat(inside, " has no format, and the config's is \"", kMixedFormat,
                              "\": expected one such as pack-quantized"));
    }
  }
  if (const nlohmann::json* activations = inner.Find("input_activations")) {
    int rows_of_activations = 0;  // a block of theirs is a group of one row's
    out.activations = ParseScheme(*activations, file, inside + ".input_activations", inner, &rows_of_activations);
  }
  if (inner.Has("output_activations")) inner.Fail(absl::StrCat(inside, ".output_activations is not supported"));
  errors.Adopt(inner.status());
  return out;
}

// Rotations of activations that are left to the forward. Those that were multiplied into the weights are of no concern.
void RefuseTransforms(JsonFields& fields) {
  const nlohmann::json* transforms = fields.Find("transform_config");
  if (!transforms || !transforms->is_object()) return;
  const nlohmann::json groups = transforms->value("config_groups", nlohmann::json::object());
  for (const auto& [name, group] : groups.items()) {
    const nlohmann::json uses = group.is_object() ? group.value("apply", nlohmann::json::array()) : nlohmann::json();
    for (const nlohmann::json& use : uses) {
      const nlohmann::json location = use.is_object() ? use.value("location", nlohmann::json()) : nlohmann::json();
      if (location == "weight_input" || location == "weight_output") continue;
      fields.Fail(absl::StrCat("quantization_config.transform_config.config_groups.", Printable(name),
                               " rotates activations (", Shown(location),
                               "), which is not supported; take an edition without it"));
    }
  }
}

}  // namespace

QuantizationConfig AsConfig(const QuantizationGroup& group) {
  QuantizationConfig config;
  config.kind = QuantizationKind::kCompressedTensors;
  config.format = group.format;
  config.weights = group.weights;
  config.activations = group.activations;
  config.block_rows = group.block_rows;
  config.block_cols = group.block_cols;
  config.activation_order = group.activation_order;
  return config;
}

ModuleTaken TakenBy(const QuantizationConfig& config, std::string_view module) {
  for (const ModuleTarget& target : config.ignored) {
    if (target.Of(module) != ModuleTarget::Match::kNone) return {nullptr, &target};
  }
  ModuleTaken best;
  std::pair<ModuleTarget::Match, std::string_view> nearest = {ModuleTarget::Match::kNone, ""};
  for (const QuantizationGroup& group : config.groups) {
    for (const ModuleTarget& target : group.targets) {
      const std::pair<ModuleTarget::Match, std::string_view> met = {target.Of(module), target.text()};
      // Of one text in two groups the later counts, as in a dictionary that is filled by texts.
      if (met.first == ModuleTarget::Match::kNone || (best.group != nullptr && met > nearest)) continue;
      best = {&group, &target};
      nearest = met;
    }
  }
  return best;
}

std::string Describe(const ModuleTaken& taken) {
  if (taken.target == nullptr) return "of no group's targets";
  const std::string target = Printable(taken.target->text());
  if (taken.group == nullptr) return absl::StrCat("ignored (", target, ")");
  const std::string group = absl::StrCat("of ", Printable(taken.group->name), " (", target, ")");
  if (taken.group->weights.bits == 0) return absl::StrCat(group, ", a group without weights");
  return absl::StrCat(group, ": ", Describe(AsConfig(*taken.group)));
}

QuantizationConfig ParseCompressedTensors(JsonFields& fields, const std::string& file) {
  QuantizationConfig config;
  config.kind = QuantizationKind::kCompressedTensors;
  config.format = fields.String("format", "dense");
  config.ignore = fields.Strings("ignore");
  if (const nlohmann::json* cache = fields.Find("kv_cache_scheme")) {
    config.kv_cache = ParseCache(*cache, file, fields);
  }
  const nlohmann::json* sparsity = fields.Find("sparsity_config");
  if (sparsity && sparsity->is_object() && sparsity->value("format", nlohmann::json("dense")) != "dense") {
    fields.Fail("quantization_config.sparsity_config (sparse weights) is not supported; take the edition without it");
  }
  RefuseTransforms(fields);
  const nlohmann::json* groups = fields.Find("config_groups");
  const bool cache_alone = config.kv_cache.bits > 0 && (!groups || groups->empty());
  if (cache_alone) return config;
  if (!groups || !groups->is_object() || groups->empty()) {
    fields.Fail(absl::StrCat("quantization_config.config_groups must be an object with one group or several, found ",
                             groups ? Shown(*groups) : "none"));
    return config;
  }
  for (const auto& [name, group] : groups->items()) {
    std::vector<std::string> targets;
    QuantizationGroup parsed = ParseGroup(name, group, config.format, file, fields, &targets);
    if (!fields.ok()) return config;
    if (groups->size() == 1) {
      QuantizationConfig only = AsConfig(parsed);
      only.targets = std::move(targets);
      only.ignore = std::move(config.ignore);
      only.kv_cache = config.kv_cache;
      return only;
    }
    const std::string inside = absl::StrCat("quantization_config.config_groups.", Printable(name), ".targets");
    if (targets.empty()) {
      fields.Fail(absl::StrCat(inside, " must name the modules that the group is of, for there are several groups; ",
                               "found none"));
    }
    parsed.targets = ParseTargets(targets, inside, fields);
    config.groups.push_back(std::move(parsed));
  }
  config.ignored = ParseTargets(config.ignore, "quantization_config.ignore", fields);
  return config;
}

}  // namespace duo
