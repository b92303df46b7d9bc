#include "runtime/weights/config.h"

#include <algorithm>
#include <filesystem>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/read_file.h"
#include "runtime/files/json_fields.h"
#include "runtime/gguf/folder_texts.h"
#include "runtime/weights/config_experts.h"
#include "runtime/weights/config_refusals.h"
#include "runtime/weights/gguf_model.h"

namespace duo {
namespace {

constexpr size_t kMaxFile = 16 << 20;  // bytes of a config; real ones have a few thousand
constexpr int64_t kMaxTokens = (int64_t{1} << 31) - 1;

bool Bias(BiasRule rule, bool configured) {
  return rule == BiasRule::kAlways || (rule == BiasRule::kConfig && configured);
}

void ReadWindow(JsonFields& fields, const FamilySpec& spec, ModelConfig& config) {
  if (spec.window == WindowRule::kNone) return;
  const bool by_layer = spec.window == WindowRule::kByLayer, alternate = spec.window == WindowRule::kAlternate;
  const std::vector<std::string> types = fields.Strings("layer_types");
  if (!types.empty() && types.size() != static_cast<size_t>(config.layers)) {
    fields.Fail(absl::StrCat("layer_types must have ", config.layers, " entries, one a layer, found ", types.size()));
    return;
  }
  for (const std::string& type : types) {
    if (type != "full_attention" && type != "sliding_attention") {
      fields.Fail(
          absl::StrCat("layer type \"", type, "\" is not supported; expected full_attention or sliding_attention"));
      return;
    }
  }
  int64_t window = 0;
  if (!by_layer || fields.Bool("use_sliding_window", false)) {
    // A null says "no window"; a missing key says "the class's default".
    window =
        fields.IsNull("sliding_window") ? 0 : fields.Int("sliding_window", 1, kMaxTokens, spec.default_sliding_window);
  }
  config.window_layers.assign(static_cast<size_t>(config.layers), 0);
  const int64_t first = by_layer ? fields.Int("max_window_layers", 0, 1 << 20, 28) : 0;
  for (int layer = 0; layer < config.layers; ++layer) {
    const bool sliding = !types.empty() ? types[layer] == "sliding_attention"
                                        : window > 0 && (alternate ? layer % 2 == 0 : layer >= first);
    config.window_layers[layer] = sliding;
  }
  const auto sliding = std::count(config.window_layers.begin(), config.window_layers.end(), 1);
  if (sliding > 0 && window == 0 && (by_layer || alternate)) {
    fields.Fail("layer_types has sliding_attention layers, but there is no sliding_window in use");
  }
  if (spec.window == WindowRule::kAllLayers && !types.empty() && window > 0 && sliding != config.layers) {
    fields.Fail(absl::StrCat("a ", spec.model_type, " model whose layer_types mixes windows is not supported"));
  }
  config.sliding_window = sliding > 0 ? window : 0;
  if (config.sliding_window == 0) config.window_layers.clear();
}

void ReadRope(JsonFields& top, const std::string& file, double default_theta, ModelConfig& config) {
  RopeConfig& rope = config.rope;
  const int64_t positions = config.max_position_embeddings;
  // transformers' order: rope_scaling where it says anything, else rope_parameters.
  const char* key = "rope_scaling";
  const nlohmann::json* found = top.Find(key);
  if (!found || (found->is_object() && found->empty())) found = top.Find(key = "rope_parameters");
  const nlohmann::json none = nlohmann::json::object();
  if (found && !found->is_object()) {
    top.Fail(absl::StrCat(key, " must be an object, found ", Shown(*found)));
    return;
  }
  const nlohmann::json& object = found ? *found : none;
  JsonFields fields(object, file, absl::StrCat(key, "."));
  if (object.contains("full_attention") || object.contains("sliding_attention")) {
    top.Fail(absl::StrCat("RoPE parameters by layer type (", key, ") are not supported"));
    return;
  }
  const double theta = top.Number("rope_theta", 1.001, 1e18, default_theta);
  rope.theta = fields.Number("rope_theta", 1.001, 1e18, theta);
  if (fields.Number("partial_rotary_factor", 0, 1, 1) != 1)
    fields.Fail("partial_rotary_factor below 1 is not supported");

  const std::string type = fields.String("rope_type", fields.String("type", "default"));
  const auto factor = [&] { return fields.Number("factor", 1, 1e6); };
  const auto original = [&] {
    const int64_t inner = fields.Int("original_max_position_embeddings", 1, kMaxTokens, positions);
    return top.Int("original_max_position_embeddings", 1, kMaxTokens, inner);
  };
  if (type == "default") {
    rope.scaling = RopeScaling::kNone;
  } else if (type == "linear") {
    rope.scaling = RopeScaling::kLinear;
    rope.factor = factor();
  } else if (type == "dynamic") {
    rope.scaling = RopeScaling::kDynamic;
    rope.factor = factor();
    if (config.head_dim < 4) fields.Fail("dynamic scaling needs a head_dim of 4 or more");
  } else if (type == "llama3") {
    rope.scaling = RopeScaling::kLlama3;
    rope.factor = factor();
    rope.original_max_position_embeddings = original();
    rope.low_freq_factor = fields.Number("low_freq_factor", 1e-6, 1e6);
    rope.high_freq_factor = fields.Number("high_freq_factor", 1e-6, 1e6);
    if (fields.ok() && rope.high_freq_factor <= rope.low_freq_factor) {
      fields.Fail(absl::StrCat("rope high_freq_factor must be above low_freq_factor, found ", rope.high_freq_factor,
                               " and ", rope.low_freq_factor));
    }
  } else if (type == "yarn") {
    rope.scaling = RopeScaling::kYarn;
    rope.original_max_position_embeddings = original();
    // A null factor means the ratio of the two lengths (DeepSeek's habit).
    const double ratio = static_cast<double>(positions) / static_cast<double>(rope.original_max_position_embeddings);
    rope.factor = fields.Has("factor") ? factor() : ratio;
    rope.attention_factor = fields.Has("attention_factor") ? fields.Number("attention_factor", 1e-6, 1e6) : 0;
    const auto optional = [&](const char* name, double fallback) {  // transformers reads 0 as "not given"
      const double x = fields.Number(name, 0, 1e9, fallback);
      return x == 0 ? fallback : x;
    };
    rope.beta_fast = optional("beta_fast", 32);
    rope.beta_slow = optional("beta_slow", 1);
    rope.mscale = optional("mscale", 0);
    rope.mscale_all_dim = optional("mscale_all_dim", 0);
    rope.truncate = fields.Bool("truncate", true);
    if (rope.factor < 1) fields.Fail(absl::StrCat("rope factor must be 1 or more, found ", rope.factor));
    if (rope.beta_fast < rope.beta_slow) {
      fields.Fail(
          absl::StrCat("rope beta_fast must not be below beta_slow, found ", rope.beta_fast, " and ", rope.beta_slow));
    }
  } else {
    fields.Fail(absl::StrCat("RoPE scaling \"", type, "\" is not supported; supported are default, linear, dynamic, ",
                             "llama3, yarn"));
  }
  top.Adopt(fields.status());
}

DType ReadDType(JsonFields& fields) {
  std::string name = fields.String("dtype", fields.String("torch_dtype", "float32"));
  if (name.rfind("torch.", 0) == 0) name = name.substr(6);
  if (name == "float32") return DType::kF32;
  if (name == "float16") return DType::kF16;
  if (name == "bfloat16") return DType::kBF16;
  fields.Fail(absl::StrCat("dtype \"", name, "\" is not supported; supported are float32, float16, bfloat16"));
  return DType::kF32;
}

}  // namespace

const char* Name(RopeScaling scaling) {
  switch (scaling) {
    case RopeScaling::kNone:
      return "none";
    case RopeScaling::kLinear:
      return "linear";
    case RopeScaling::kDynamic:
      return "dynamic";
    case RopeScaling::kLlama3:
      return "llama3";
    case RopeScaling::kYarn:
      return "yarn";
  }
  return "?";
}

absl::StatusOr<ModelConfig> ParseConfig(std::string_view text, const std::string& file) {
  auto root = ParseJsonObject(text, file);
  if (!root.ok()) return root.status();
  JsonFields fields(*root, file);

  const std::string type = fields.String("model_type", "");
  if (!fields.ok()) return fields.status();
  if (type.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": has no model_type; supported are ", KnownModelTypes()));
  }
  const FamilySpec* spec = FindFamily(type);
  if (!spec) return UnknownModelType(file, type);
  RefuseUnsupported(fields, *spec);
  if (!fields.ok()) return absl::UnimplementedError(fields.status().message());

  ModelConfig config;
  config.family = spec->family;
  if (!fields.IsNull("_name_or_path")) config.name_or_path = fields.String("_name_or_path", "");
  config.hidden = fields.Int("hidden_size", 1, 1 << 20);
  config.intermediate = fields.Int("intermediate_size", 1, 1 << 22);
  config.layers = static_cast<int>(fields.Int("num_hidden_layers", 1, 4096));
  config.heads = static_cast<int>(fields.Int("num_attention_heads", 1, 4096));
  const int kv_default = spec->default_kv_heads ? spec->default_kv_heads : config.heads;
  // A null means "as many as query heads" in every family; only a missing key takes the class's default.
  config.kv_heads = fields.IsNull("num_key_value_heads")
                        ? config.heads
                        : static_cast<int>(fields.Int("num_key_value_heads", 1, 4096, kv_default));
  if (fields.ok() && config.heads % config.kv_heads != 0) {
    fields.Fail(absl::StrCat("num_attention_heads must be a multiple of num_key_value_heads, found ", config.heads,
                             " and ", config.kv_heads));
  }
  if (!fields.Has("head_dim") && spec->default_head_dim == 0) {
    if (fields.ok() && config.hidden % config.heads != 0) {
      fields.Fail(
          absl::StrCat("hidden_size must be a multiple of num_attention_heads where head_dim is not given, found ",
                       config.hidden, " and ", config.heads));
    }
    config.head_dim = static_cast<int>(config.hidden / config.heads);
    if (config.head_dim > 1024) fields.Fail(absl::StrCat("head_dim must be at most 1024, found ", config.head_dim));
  } else {
    config.head_dim = static_cast<int>(fields.Int("head_dim", 1, 1024, spec->default_head_dim));
  }
  if (fields.ok() && config.head_dim % 2 != 0) {
    fields.Fail(absl::StrCat("head_dim must be even, found ", config.head_dim));
  }
  config.vocab = fields.Int("vocab_size", 1, 1 << 24);
  config.rms_norm_eps = fields.Number("rms_norm_eps", 0, 1, 1e-6);
  config.tie_embeddings = fields.Bool("tie_word_embeddings", false);
  config.max_position_embeddings =
      fields.Int("max_position_embeddings", 1, kMaxTokens, spec->default_max_position_embeddings);
  if (const nlohmann::json* chunks = fields.Find("dual_chunk_attention_config"); chunks != nullptr) {
    if (!chunks->is_object()) {
      fields.Fail(absl::StrCat("dual_chunk_attention_config must be an object, found ", Shown(*chunks)));
      return fields.status();
    }
    JsonFields inside(*chunks, file, "dual_chunk_attention_config.");
    DualChunkConfig& dual = config.dual_chunk;
    dual.chunk_size = inside.Int("chunk_size", 1, kMaxTokens, 8192);
    dual.local_size = inside.Int("local_size", 0, kMaxTokens, 1024);
    dual.original_max_position_embeddings = inside.Int("original_max_position_embeddings", 0, kMaxTokens, 0);
    if (inside.ok() && dual.local_size >= dual.chunk_size) {
      inside.Fail(
          absl::StrCat("local_size must be below chunk_size, found ", dual.local_size, " and ", dual.chunk_size));
    }
    fields.Adopt(inside.status());
  }
  config.max_sequence_length = fields.Int("max_sequence_length", 0, kMaxTokens, 0);

  const bool attention_bias = fields.Bool("attention_bias", false), mlp_bias = fields.Bool("mlp_bias", false);
  config.attention_bias = Bias(spec->qkv_bias, attention_bias);
  config.o_bias = Bias(spec->o_bias, attention_bias);
  config.mlp_bias = Bias(spec->mlp_bias, mlp_bias);
  config.qk_norm = spec->qk_norm;
  config.attention_sinks = spec->attention_sinks;
  config.dtype = ReadDType(fields);
  config.bos_ids = fields.Ids("bos_token_id");
  config.eos_ids = fields.Ids("eos_token_id");
  if (!fields.ok()) return fields.status();

  ReadWindow(fields, *spec, config);
  ReadRope(fields, file, spec->default_rope_theta, config);
  ReadExperts(fields, *spec, config);
  if (!fields.ok()) return fields.status();

  const nlohmann::json* quantization = fields.Find("quantization_config");
  if (!quantization) quantization = fields.Find("compression_config");
  if (quantization) {
    auto parsed = ParseQuantizationConfig(quantization->dump(), file);
    if (!parsed.ok()) return parsed.status();
    config.quantization = *parsed;
  }
  return config;
}

absl::StatusOr<std::string> ConfigText(const std::string& model) {
  if (IsGgufPath(model)) {
    const absl::StatusOr<GgufFile> file = GgufFile::Open(model);
    return file.ok() ? GgufConfigJson(*file) : file.status();
  }
  std::error_code code;
  if (!std::filesystem::is_directory(model, code)) {
    return absl::NotFoundError(absl::StrCat(
        model, ": expected a model folder (config.json, tokenizer.json, *.safetensors), found ",
        std::filesystem::exists(model, code) ? "a file" : "none", "; a file that is a model ends in .gguf"));
  }
  return ReadFile((std::filesystem::path(model) / "config.json").string(), kMaxFile);
}

absl::StatusOr<ModelConfig> LoadConfig(const std::string& model) {
  if (IsGgufPath(model)) return LoadGgufConfig(model);
  auto text = ConfigText(model);
  if (!text.ok()) return text.status();
  return ParseConfig(*text, (std::filesystem::path(model) / "config.json").string());
}

absl::StatusOr<std::vector<int>> ParseStopTokens(std::string_view text, const std::string& file,
                                                 const ModelConfig& config) {
  std::vector<int> ids = config.eos_ids;
  if (!text.empty()) {
    auto root = ParseJsonObject(text, file);
    if (!root.ok()) return root.status();
    JsonFields fields(*root, file);
    if (fields.Has("eos_token_id")) ids = fields.Ids("eos_token_id");
    if (!fields.ok()) return fields.status();
  }
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

absl::StatusOr<std::vector<int>> StopTokens(const std::string& model_dir, const ModelConfig& config) {
  if (IsGgufPath(model_dir)) return ParseStopTokens("", model_dir, config);
  const std::filesystem::path path = std::filesystem::path(model_dir) / "generation_config.json";
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return ParseStopTokens("", path.string(), config);
  auto text = ReadFile(path.string(), kMaxFile);
  if (!text.ok()) return text.status();
  if (text->empty()) return absl::InvalidArgumentError(absl::StrCat(path.string(), ": expected JSON, found no bytes"));
  return ParseStopTokens(*text, path.string(), config);
}

int64_t MaxPositions(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  double scaled = 0;
  if (rope.scaling == RopeScaling::kYarn)
    scaled = rope.factor * static_cast<double>(rope.original_max_position_embeddings);
  if (rope.scaling == RopeScaling::kDynamic) scaled = rope.factor * static_cast<double>(config.max_position_embeddings);
  const int64_t extended = static_cast<int64_t>(std::min(scaled, static_cast<double>(kMaxTokens)));
  return std::max({extended, config.max_position_embeddings, config.max_sequence_length});
}

int64_t MaxPlainPositions(const ModelConfig& config) {
  const int64_t covered = MaxPositions(config);
  return config.dual_chunk.chunk_size > 0 ? std::min(covered, config.dual_chunk.plain()) : covered;
}

}  // namespace duo
