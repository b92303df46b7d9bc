// The keys of a model's shape to config.json, and the names of tensors.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "runtime/files/printable.h"
#include "runtime/gguf/folder_texts.h"

namespace duo {
namespace {

using nlohmann::ordered_json;

constexpr int64_t kMost = (int64_t{1} << 31) - 1;

struct Architecture {
  const char* name;
  const char* model_type;
  bool paired_rows = false;
  const char* experts_type = nullptr;  // the model type where there are experts; null: none may be
  bool only_experts() const { return experts_type != nullptr && std::string_view(experts_type) == model_type; }
};
constexpr Architecture kArchitectures[] = {{"llama", "llama", true, "mixtral"},
                                           {"qwen2", "qwen2"},
                                           {"qwen3", "qwen3"},
                                           {"qwen2moe", "qwen2_moe", false, "qwen2_moe"},
                                           {"qwen3moe", "qwen3_moe", false, "qwen3_moe"},
                                           {"gpt-oss", "gpt_oss", false, "gpt_oss"}};

const Architecture* FindArchitecture(std::string_view name) {
  for (const Architecture& a : kArchitectures) {
    if (name == a.name) return &a;
  }
  return nullptr;
}

struct TensorName {
  const char* gguf;
  const char* folder;
  const char* bias = nullptr;  // null: both names go on with the file's ".weight" or ".bias"; else the bias's, or ""
};
constexpr TensorName kOuterNames[] = {{"token_embd.weight", "model.embed_tokens.weight"},
                                      {"output.weight", "lm_head.weight"},
                                      {"output_norm.weight", "model.norm.weight"}};
// Of a layer, before ".weight" or ".bias". {} stands for an expert's number where a tensor holds all of a layer's.
constexpr TensorName kAttentionNames[] = {{"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
                                          {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
                                          {"attn_output", "self_attn.o_proj"}, {"attn_q_norm", "self_attn.q_norm"},
                                          {"attn_k_norm", "self_attn.k_norm"}};
constexpr TensorName kDenseNames[] = {{"ffn_norm", "post_attention_layernorm"},
                                      {"ffn_gate", "mlp.gate_proj"},
                                      {"ffn_up", "mlp.up_proj"},
                                      {"ffn_down", "mlp.down_proj"}};
constexpr TensorName kMixtralNames[] = {{"ffn_norm", "post_attention_layernorm"},
                                        {"ffn_gate_inp", "block_sparse_moe.gate"},
                                        {"ffn_gate_exps", "block_sparse_moe.experts.{}.w1"},
                                        {"ffn_down_exps", "block_sparse_moe.experts.{}.w2"},
                                        {"ffn_up_exps", "block_sparse_moe.experts.{}.w3"}};
// Some layers of theirs may be dense.
constexpr TensorName kQwenExpertNames[] = {{"ffn_gate_inp", "mlp.gate"},
                                           {"ffn_gate_exps", "mlp.experts.{}.gate_proj"},
                                           {"ffn_up_exps", "mlp.experts.{}.up_proj"},
                                           {"ffn_down_exps", "mlp.experts.{}.down_proj"},
                                           {"ffn_gate_inp_shexp", "mlp.shared_expert_gate"},
                                           {"ffn_gate_shexp", "mlp.shared_expert.gate_proj"},
                                           {"ffn_up_shexp", "mlp.shared_expert.up_proj"},
                                           {"ffn_down_shexp", "mlp.shared_expert.down_proj"}};
// A folder has these experts in one tensor, gate and up rows in turn; the names here are those of its parts
// (StackedPartName in runtime/weights).
constexpr TensorName kGptOssNames[] = {
    {"post_attention_norm", "post_attention_layernorm"},
    {"attn_sinks", "self_attn.sinks", ""},
    {"ffn_gate_inp", "mlp.router"},
    {"ffn_gate_exps", "mlp.experts.gate_up_proj.{}.0", "mlp.experts.gate_up_proj_bias.{}.0"},
    {"ffn_up_exps", "mlp.experts.gate_up_proj.{}.1", "mlp.experts.gate_up_proj_bias.{}.1"},
    {"ffn_down_exps", "mlp.experts.down_proj.{}.0", "mlp.experts.down_proj_bias.{}.0"}};

// Which of them a model type has, beside the attention's.
struct MlpNames {
  const char* model_type;
  absl::Span<const TensorName> names, more = {};
};
constexpr MlpNames kMlpNames[] = {{"mixtral", kMixtralNames},
                                  {"qwen2_moe", kDenseNames, kQwenExpertNames},
                                  {"qwen3_moe", kDenseNames, kQwenExpertNames},
                                  {"gpt_oss", kGptOssNames}};
constexpr MlpNames kDenseMlp = {"", kDenseNames};

const TensorName* FindName(std::string_view kind, std::string_view model_type) {
  const MlpNames* mlp = &kDenseMlp;
  for (const MlpNames& of_type : kMlpNames) {
    if (model_type == of_type.model_type) mlp = &of_type;
  }
  for (const absl::Span<const TensorName> names :
       {absl::Span<const TensorName>(kAttentionNames), mlp->names, mlp->more}) {
    for (const TensorName& known : names) {
      if (kind == known.gguf) return &known;
    }
  }
  return nullptr;
}

// Keys of an architecture, "llama.block_count" and so on, to those of config.json.
class ConfigWriter {
 public:
  ConfigWriter(const GgufFile& file, const Architecture& architecture)
      : file_(file), architecture_(architecture), in_(file) {}

  absl::StatusOr<std::string> Write() {
    experts_ = in_.Int(Key("expert_count"), 0, kMost, 0);
    out_["model_type"] = GgufModelType(file_);
    if (const std::string name = in_.String("general.name", ""); !name.empty()) out_["_name_or_path"] = name;
    Sizes();
    Experts();
    Rope();
    Window();
    Tokens();
    if (!in_.ok()) return in_.status();
    return out_.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  }

 private:
  std::string Key(const char* name) const { return absl::StrCat(architecture_.name, ".", name); }

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

  // A file has no key for how experts are weighted: llama.cpp knows it of the architecture, but for a scale and a
  // gating function that no model here has.
  void Experts() {
    if (experts_ == 0) {
      if (architecture_.only_experts()) in_.Fail(absl::StrCat(Key("expert_count"), ": expected 1 or more experts"));
      return;
    }
    if (architecture_.experts_type == nullptr) {
      in_.Unsupported(
          absl::StrCat(Key("expert_count"), ": experts of a ", architecture_.name, " model are not supported"));
      return;
    }
    const std::string type = out_["model_type"];
    const bool qwen = type == "qwen2_moe" || type == "qwen3_moe", gpt_oss = type == "gpt_oss";
    out_[qwen ? "num_experts" : "num_local_experts"] = experts_;
    out_["num_experts_per_tok"] = in_.Int(Key("expert_used_count"), 1, experts_);
    const int64_t softmax = gpt_oss ? 3 : 1;  // llama.cpp's numbers: over the chosen experts' logits, over all
    const int64_t gating = in_.Int(Key("expert_gating_func"), 0, kMost, softmax);
    const double scale = in_.Number(Key("expert_weights_scale"), -1e9, 1e9, 1.0);
    if (gating != softmax)
      in_.Unsupported(absl::StrCat(Key("expert_gating_func"), ": only ", softmax, " is supported"));
    if (scale != 1 && scale != 0) in_.Unsupported(absl::StrCat(Key("expert_weights_scale"), ": only 1 is supported"));
    const auto whole = out_["intermediate_size"].get<int64_t>(), layers = out_["num_hidden_layers"].get<int64_t>();
    const int64_t width = in_.Int(Key("expert_feed_forward_length"), 1, 1 << 22, whole);
    if (!qwen) {
      out_["intermediate_size"] = width;
      return;
    }
    out_["moe_intermediate_size"] = width;
    out_["norm_topk_prob"] = in_.Bool(Key("expert_weights_norm"), type == "qwen3_moe");
    if (type == "qwen2_moe")
      out_["shared_expert_intermediate_size"] = in_.Int(Key("expert_shared_feed_forward_length"), 1, 1 << 22);
    ordered_json dense = ordered_json::array();
    for (int64_t layer = 0; layer < layers; ++layer) {
      if (file_.FindTensor(absl::StrCat("blk.", layer, ".ffn_gate_inp.weight")) == nullptr) dense.push_back(layer);
    }
    out_["mlp_only_layers"] = dense;
  }

  void Rope() {
    out_["rope_theta"] = in_.Number(Key("rope.freq_base"), 1.001, 1e18, 10000.0);
    const std::string type =
        in_.String(Key("rope.scaling.type"), in_.Has(Key("rope.scale_linear")) ? "linear" : "none");
    if (type == "none" || type.empty()) {
      // gpt-oss's class would take a scaling of its own for none.
      if (out_["model_type"] == "gpt_oss") out_["rope_scaling"] = {{"rope_type", "default"}};
      return;
    }
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
    if (out_["model_type"] == "gpt_oss") rope["truncate"] = false;  // as it was trained; the file has no key for it
    out_["rope_scaling"] = rope;
  }

  void Window() {
    const int64_t window = in_.Int(Key("attention.sliding_window"), 0, kMost, 0);
    const std::string type = out_["model_type"];
    if (type == "gpt_oss") {  // every other layer has it, whether the context is longer or not
      out_["sliding_window"] = in_.Int(Key("attention.sliding_window"), 1, kMost);
      return;
    }
    if (window == 0 || window >= in_.Int(Key("context_length"), 1, kMost)) return;
    if (type == "mixtral") {
      out_["sliding_window"] = window;
      return;
    }
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
  int64_t experts_ = 0;
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

std::string GgufModelType(const GgufFile& file) {
  GgufFields fields(file);
  const Architecture* found = FindArchitecture(fields.String("general.architecture", ""));
  if (found == nullptr) return "";
  const bool experts = fields.Int(absl::StrCat(found->name, ".expert_count"), 0, kMost, 0) > 0;
  return experts && found->experts_type != nullptr ? found->experts_type : found->model_type;
}

bool HasPairedRows(const GgufFile& file) {
  const GgufValue* name = file.Find("general.architecture");
  const Architecture* found = name == nullptr ? nullptr : FindArchitecture(name->String().value_or(""));
  return found != nullptr && found->paired_rows;
}

FolderTensor FolderTensorOf(std::string_view name, std::string_view model_type) {
  for (const TensorName& known : kOuterNames) {
    if (name == known.gguf) return {known.folder};
  }
  constexpr std::string_view kBlock = "blk.";
  if (!name.starts_with(kBlock)) return {};
  const size_t first = name.find('.', kBlock.size()), last = name.rfind('.');
  if (first == std::string_view::npos || first >= last) return {};
  const std::string number(name.substr(kBlock.size(), first - kBlock.size())), ending(name.substr(last));
  int layer = 0;
  if (!absl::SimpleAtoi(number, &layer) || layer < 0 || absl::StrCat(layer) != number) return {};
  if (ending != ".weight" && ending != ".bias") return {};
  const TensorName* known = FindName(name.substr(first + 1, last - first - 1), model_type);
  if (known == nullptr) return {};
  const bool bias = ending == ".bias";
  std::string inside = known->bias == nullptr ? absl::StrCat(known->folder, ending)
                       : bias                 ? known->bias
                                              : known->folder;
  if (inside.empty()) return {};
  return {absl::StrCat("model.layers.", layer, ".", inside), inside.find("{}") != std::string::npos};
}

}  // namespace duo
