// The keys of a model's shape to config.json, and the names of tensors.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "runtime/files/printable.h"
#include "runtime/gguf/folder_texts.h"

namespace duo {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kMost = (int64_t{1} << 31) - 1;

struct Architecture {
  const char* name;
  const char* model_type;
  bool paired_rows;
};
constexpr Architecture kArchitectures[] = {
    {"llama", "llama", true}, {"qwen2", "qwen2", false}, {"qwen3", "qwen3", false}};

const Architecture* FindArchitecture(std::string_view name) {
  for (const Architecture& a : kArchitectures) {
    if (name == a.name) return &a;
  }
  return nullptr;
}

struct TensorName {
  const char* gguf;
  const char* folder;
};
constexpr TensorName kOuterNames[] = {{"token_embd.weight", "model.embed_tokens.weight"},
                                      {"output.weight", "lm_head.weight"},
                                      {"output_norm.weight", "model.norm.weight"}};
// Of a layer, before ".weight" or ".bias".
constexpr TensorName kLayerNames[] = {{"attn_norm", "input_layernorm"},    {"ffn_norm", "post_attention_layernorm"},
                                      {"attn_q", "self_attn.q_proj"},      {"attn_k", "self_attn.k_proj"},
                                      {"attn_v", "self_attn.v_proj"},      {"attn_output", "self_attn.o_proj"},
                                      {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"},
                                      {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
                                      {"ffn_down", "mlp.down_proj"}};

// Keys of an architecture, "llama.block_count" and so on, to those of config.json.
class ConfigWriter {
 public:
  ConfigWriter(const GgufFile& file, const Architecture& architecture)
      : file_(file), architecture_(architecture), in_(file) {}

  absl::StatusOr<std::string> Write() {
    RefuseExperts();
    out_["model_type"] = architecture_.model_type;
    if (const std::string name = in_.String("general.name", ""); !name.empty()) out_["_name_or_path"] = name;
    Sizes();
    Rope();
    Window();
    Tokens();
    if (!in_.ok()) return in_.status();
    return out_.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  }

 private:
  std::string Key(const char* name) const { return absl::StrCat(architecture_.name, ".", name); }

  void RefuseExperts() {
    if (in_.Int(Key("expert_count"), 0, kMost, 0) > 0) {
      in_.Unsupported(absl::StrCat(Key("expert_count"), ": a mixture of experts is not supported"));
    }
  }

  void Sizes() {
    const int64_t hidden = in_.Int(Key("embedding_length"), 1, 1 << 20);
    const int64_t heads = in_.Int(Key("attention.head_count"), 1, 4096);
    const int64_t head_dim = in_.Int(Key("attention.key_length"), 1, 1024, std::max<int64_t>(1, hidden / heads));
    const int64_t value_dim = in_.Int(Key("attention.value_length"), 1, 1024, head_dim);
    const int64_t rotated = in_.Int(Key("rope.dimension_count"), 0, 1024, head_dim);
    if (value_dim != head_dim) {
      in_.Unsupported(absl::StrCat(Key("attention.value_length"), ": values of another size than keys (", value_dim,
                                   " and ", head_dim, ") are not supported"));
    }
    if (rotated != head_dim) {
      in_.Unsupported(absl::StrCat(Key("rope.dimension_count"), ": rotating only ", rotated, " of a head's ", head_dim,
                                   " dimensions is not supported"));
    }
    out_["hidden_size"] = hidden;
    out_["intermediate_size"] = in_.Int(Key("feed_forward_length"), 1, 1 << 22);
    out_["num_hidden_layers"] = in_.Int(Key("block_count"), 1, 4096);
    out_["num_attention_heads"] = heads;
    out_["num_key_value_heads"] = in_.Int(Key("attention.head_count_kv"), 1, 4096, heads);
    out_["head_dim"] = head_dim;
    // The embedding's rows are what the model can read; the tokens may be fewer.
    const GgufTensor* embedding = file_.FindTensor("token_embd.weight");
    if (embedding == nullptr || embedding->shape.size() != 2) {
      in_.Fail("expected the tensor token_embd.weight with two dimensions, found none");
    } else {
      out_["vocab_size"] = embedding->shape[0];
    }
    // f32 in the file; the shortest decimal that rounds to it is what the model's own config has.
    const auto eps = static_cast<float>(in_.Number(Key("attention.layer_norm_rms_epsilon"), 0, 1));
    double shortest = eps;
    if (absl::SimpleAtod(absl::StrCat(eps), &shortest)) out_["rms_norm_eps"] = shortest;
    out_["tie_word_embeddings"] = file_.FindTensor("output.weight") == nullptr;
    out_["max_position_embeddings"] = in_.Int(Key("context_length"), 1, kMost);
    out_["hidden_act"] = "silu";
    out_["torch_dtype"] = embedding == nullptr                ? "bfloat16"
                          : embedding->type == GgufType::kF32 ? "float32"
                          : embedding->type == GgufType::kF16 ? "float16"
                                                              : "bfloat16";
  }

  void Rope() {
    out_["rope_theta"] = in_.Number(Key("rope.freq_base"), 1.001, 1e18, 10000.0);
    const std::string type =
        in_.String(Key("rope.scaling.type"), in_.Has(Key("rope.scale_linear")) ? "linear" : "none");
    if (type == "none" || type.empty()) return;
    if (type != "linear" && type != "yarn") {
      in_.Unsupported(absl::StrCat(Key("rope.scaling.type"), " \"", Printable(type),
                                   "\" is not supported; supported are none, linear, yarn"));
      return;
    }
    const double linear = in_.Number(Key("rope.scale_linear"), 1, 1e6, 1.0);
    const double factor = in_.Number(Key("rope.scaling.factor"), 1, 1e6, linear);
    ordered_json rope = {{"rope_type", type}, {"factor", factor}};
    if (type == "yarn") {
      rope["original_max_position_embeddings"] = in_.Int(Key("rope.scaling.original_context_length"), 1, kMost);
      // Beside YaRN's own factor, which config.json's replaces.
      const double more = in_.Number(Key("rope.scaling.yarn_attn_factor"), 1e-6, 1e6,
                                     in_.Number(Key("rope.scaling.attn_factor"), 1e-6, 1e6, 1.0));
      if (more != 1) rope["attention_factor"] = more * (factor <= 1 ? 1.0 : 0.1 * std::log(factor) + 1.0);
      rope["beta_fast"] = in_.Number(Key("rope.scaling.yarn_beta_fast"), 0, 1e9, 32.0);
      rope["beta_slow"] = in_.Number(Key("rope.scaling.yarn_beta_slow"), 0, 1e9, 1.0);
      for (const auto& [key, usual] : {std::pair(Key("rope.scaling.yarn_ext_factor"), 1.0),
                                       std::pair(Key("rope.scaling.yarn_log_multiplier"), 0.0)}) {
        if (in_.Number(key, -1e9, 1e9, usual) != usual)
          in_.Unsupported(absl::StrCat(key, ": only ", usual, " is supported"));
      }
    }
    out_["rope_scaling"] = rope;
  }

  void Window() {
    const int64_t window = in_.Int(Key("attention.sliding_window"), 0, kMost, 0);
    if (window == 0 || window >= in_.Int(Key("context_length"), 1, kMost)) return;
    if (std::string_view(architecture_.name) != "llama") {
      in_.Unsupported(absl::StrCat(Key("attention.sliding_window"), ": the file does not say which layers of a ",
                                   architecture_.name, " model have it; it is not supported"));
      return;
    }
    out_["model_type"] = "mistral";  // the llama whose layers all have one
    out_["sliding_window"] = window;
  }

  void Tokens() {
    const auto id = [&](const char* name) { return in_.Int(absl::StrCat("tokenizer.ggml.", name), -1, kMost, -1); };
    if (const int64_t bos = id("bos_token_id"); bos >= 0) out_["bos_token_id"] = bos;
    ordered_json ends = ordered_json::array();
    for (const char* name : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
      const int64_t end = id(name);
      if (end >= 0 && std::find(ends.begin(), ends.end(), end) == ends.end()) ends.push_back(end);
    }
    if (!ends.empty()) out_["eos_token_id"] = ends;
  }

  const GgufFile& file_;
  const Architecture& architecture_;
  GgufFields in_;
  ordered_json out_;
};

}  // namespace

absl::StatusOr<std::string> GgufConfigJson(const GgufFile& file) {
  GgufFields fields(file);
  const std::string name = fields.String("general.architecture");
  if (!fields.ok()) return fields.status();
  const Architecture* architecture = FindArchitecture(name);
  if (architecture == nullptr) {
    std::string known;
    for (const Architecture& a : kArchitectures) absl::StrAppend(&known, known.empty() ? "" : ", ", a.name);
    fields.Unsupported(
        absl::StrCat("general.architecture \"", Printable(name), "\" is not supported; supported are ", known));
    return fields.status();
  }
  return ConfigWriter(file, *architecture).Write();
}

bool HasPairedRows(const GgufFile& file) {
  const GgufValue* name = file.Find("general.architecture");
  const Architecture* found = name == nullptr ? nullptr : FindArchitecture(name->String().value_or(""));
  return found != nullptr && found->paired_rows;
}

std::string FolderTensorName(std::string_view name) {
  for (const TensorName& known : kOuterNames) {
    if (name == known.gguf) return known.folder;
  }
  constexpr std::string_view kBlock = "blk.";
  if (!name.starts_with(kBlock)) return "";
  const size_t first = name.find('.', kBlock.size()), last = name.rfind('.');
  if (first == std::string_view::npos || first >= last) return "";
  const std::string number(name.substr(kBlock.size(), first - kBlock.size())), ending(name.substr(last));
  const std::string_view kind = name.substr(first + 1, last - first - 1);
  int layer = 0;
  if (!absl::SimpleAtoi(number, &layer) || layer < 0 || absl::StrCat(layer) != number) return "";
  if (ending != ".weight" && ending != ".bias") return "";
  for (const TensorName& known : kLayerNames) {
    if (kind == known.gguf) return absl::StrCat("model.layers.", layer, ".", known.folder, ending);
  }
  return "";
}

}  // namespace duo
