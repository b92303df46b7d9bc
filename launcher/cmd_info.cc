// `duo info`: what a model holds and what it needs, without loading it.

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "attn_patterns/lookup.h"
#include "launcher/terminal/commands.h"
#include "launcher/terminal/progress.h"
#include "launcher/terminal/runtime_flags.h"
#include "launcher/terminal/weight_formats_json.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer_folder.h"
#include "runtime/weights/config.h"
#include "runtime/weights/fingerprint.h"
#include "runtime/weights/held_weights.h"
#include "runtime/weights/safetensors.h"
#include "runtime/weights/supported_quantization.h"
#include "runtime/weights/weights.h"

namespace duo {
namespace {

struct InfoFlags {
  std::string model;
  bool json = false;
};

// How to talk with the model, in one line.
std::string ChatLine(const absl::StatusOr<ChatTemplate>& chat) {
  if (absl::IsNotFound(chat.status())) return "no template, so without --chat (a base model?)";
  const absl::Status status = chat.ok() ? chat->status() : chat.status();
  return status.ok() ? absl::StrFormat("turns of %s, with --chat", chat->file()) : std::string(status.message());
}

// "MLP 14336", or what stands in its place.
std::string MlpText(const ModelConfig& c) {
  const auto with = std::count(c.experts.layers.begin(), c.experts.layers.end(), 1);
  std::string mlp = absl::StrFormat("MLP %d", c.intermediate);
  if (with == 0) return mlp;
  std::string text =
      absl::StrFormat("%d experts of %d, %d a token", c.experts.count, c.experts.intermediate, c.experts.chosen);
  if (c.experts.shared_intermediate > 0) text += absl::StrFormat(" and one of %d", c.experts.shared_intermediate);
  return with == c.layers ? text : absl::StrFormat("%s in %d layers, else %s", text, with, mlp);
}

int RunInfo(const InfoFlags& flags, const Launch& launch) {
  if (launch.rank != 0) return 0;  // reads files only: under mpirun one rank does
  absl::StatusOr<ModelConfig> config = LoadConfig(flags.model);
  if (!config.ok()) return Fail(config.status());
  absl::StatusOr<SafetensorsModel> files = SafetensorsModel::Open(flags.model);
  if (!files.ok()) return Fail(files.status());
  absl::StatusOr<Tokenizer> tokenizer = LoadTokenizerOf(flags.model, config->vocab);
  if (!tokenizer.ok()) return Fail(tokenizer.status());
  int64_t parameters = 0;
  for (const std::string& name : files->names()) {
    int64_t count = 1;
    for (int64_t dim : files->Find(name)->shape) count *= dim;
    parameters += count;
  }
  const ModelConfig& c = *config;
  const bool quantised = c.quantization.kind != QuantizationKind::kNone;
  if (quantised) parameters = CountParameters(c);  // packed tensors do not show how many weights they hold
  // As a CPU would hold them: as they are stored. What cannot be loaded is described all the same, with the reason.
  const absl::Status supported = CheckSupported(c.quantization, flags.model + "/config.json");
  const absl::StatusOr<WeightFormats> formats =
      supported.ok() ? ChooseFormats(*files, c, /*on_cuda=*/false, {}) : absl::StatusOr<WeightFormats>(supported);
  const absl::StatusOr<FoundPattern> pattern =
      FindPattern(IdentityOf(flags.model, c), c.layers, c.kv_heads, PatternRoots(launch.program));
  const absl::StatusOr<ChatTemplate> chat = ChatTemplateFor(flags.model);
  const int64_t bf16 = int64_t{c.layers} * c.kv_heads * KvTokenBytes(KvFormat::kBF16, c.head_dim);
  const int64_t int4 = int64_t{c.layers} * c.kv_heads * KvTokenBytes(KvFormat::kInt4, c.head_dim);
  if (flags.json) {
    nlohmann::ordered_json out;
    out["model_type"] = Spec(c.family).model_type;
    out["parameters"] = parameters;
    out["weight_bytes"] = files->bytes();
    out["layers"] = c.layers;
    out["hidden"] = c.hidden;
    out["intermediate"] = c.intermediate;
    if (c.experts.count > 0) {
      out["active_parameters"] = CountActiveParameters(c);
      out["experts"] = c.experts.count;
      out["experts_per_token"] = c.experts.chosen;
      out["expert_intermediate"] = c.experts.intermediate;
      out["shared_expert_intermediate"] = c.experts.shared_intermediate;
    }
    out["heads"] = c.heads;
    out["kv_heads"] = c.kv_heads;
    out["head_dim"] = c.head_dim;
    out["vocab"] = c.vocab;
    out["positions"] = MaxPositions(c);
    if (MaxPlainPositions(c) < MaxPositions(c)) out["plain_positions"] = MaxPlainPositions(c);
    out["rope_theta"] = c.rope.theta;
    out["rope_scaling"] = Name(c.rope.scaling);
    out["sliding_window"] = c.sliding_window;
    out["dtype"] = Name(c.dtype);
    if (quantised) out["quantization"] = Describe(c.quantization);
    if (formats.ok()) {
      out["weight_formats"] = WeightFormatsJson(FormatShares(c, *formats));
    } else {
      out["weight_formats"] = nullptr;
      out["refused"] = std::string(formats.status().message());
    }
    out["kv_bytes_per_token_bf16"] = bf16;
    out["kv_bytes_per_token_int4"] = int4;
    const bool talks = chat.ok() && chat->status().ok();
    out["chat"] = talks ? nlohmann::ordered_json(chat->file()) : nlohmann::ordered_json(nullptr);
    out["weights_fingerprint"] = WeightsFingerprint(*files);
    out["attention"] = pattern.ok() ? "duo" : absl::IsNotFound(pattern.status()) ? "full" : "";
    out["pattern"] = pattern.ok() ? nlohmann::ordered_json(pattern->dir) : nlohmann::ordered_json(nullptr);
    std::printf("%s\n", out.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
    return 0;
  }
  auto row = [](const char* name, const std::string& value) { std::printf("%-14s %s\n", name, value.c_str()); };
  row("model", flags.model);
  row("family", Spec(c.family).model_type);
  row("parameters",
      absl::StrFormat("%s (%s on disk, %s)", Grouped(parameters), ByteCount(static_cast<double>(files->bytes())),
                      quantised ? Describe(c.quantization) : Name(c.dtype)));
  if (!formats.ok()) {
    row("weights", absl::StrFormat("cannot be loaded: %s", formats.status().message()));
  } else if (quantised) {
    row("weights", Text(FormatShares(c, *formats)));
  }
  if (c.experts.count > 0) {
    row("active", absl::StrFormat("%s parameters work on a token", Grouped(CountActiveParameters(c))));
  }
  row("layers", absl::StrFormat("%d, hidden %d, %s", c.layers, c.hidden, MlpText(c)));
  row("heads", absl::StrFormat("%d query, %d KV, head_dim %d", c.heads, c.kv_heads, c.head_dim));
  row("vocabulary", absl::StrFormat("%s%s", Grouped(c.vocab), c.tie_embeddings ? ", embedding and head tied" : ""));
  row("positions",
      absl::StrFormat("%s, RoPE theta %g, scaling %s", Grouped(MaxPositions(c)), c.rope.theta, Name(c.rope.scaling)));
  if (MaxPlainPositions(c) < MaxPositions(c)) {
    row("", absl::StrFormat("(beyond %s by dual chunk attention, in chunks of %s)", Grouped(MaxPlainPositions(c)),
                            Grouped(c.dual_chunk.chunk_size - c.dual_chunk.local_size)));
  }
  if (c.sliding_window > 0) row("window", Grouped(c.sliding_window));
  row("KV cache", absl::StrFormat("%s a token in bf16, %s in int4, with full attention",
                                  ByteCount(static_cast<double>(bf16)), ByteCount(static_cast<double>(int4))));
  row("chat", ChatLine(chat));
  if (pattern.ok()) {
    int strong = 0;
    for (double gate : pattern->pattern.gates) strong += gate > 0.5;
    row("pattern", absl::StrFormat("%s: %d of %d heads above 0.5, sink %d, recent %d", pattern->dir, strong,
                                   static_cast<int>(pattern->pattern.gates.size()), pattern->pattern.sink,
                                   pattern->pattern.recent));
  } else if (absl::IsNotFound(pattern.status())) {
    row("pattern", absl::StrFormat("none, so full attention; make one: duo identify%s --model %s --out %s",
                                   c.attention_sinks ? " --quick" : "", flags.model, OwnPatternFolder(flags.model)));
  } else {
    row("pattern", std::string(pattern.status().message()));
  }
  return 0;
}

}  // namespace

void AddInfoCommand(CLI::App& app, Launch& launch) {
  auto flags = std::make_shared<InfoFlags>();
  CLI::App* command = app.add_subcommand("info", "Say what a model holds and what it needs");
  command->footer("Examples:\n  duo info --model launcher/demo/needle-6m\n  duo info --model Qwen3-8B-Q4_K_M.gguf");
  command->add_option("--model", flags->model, "Model: a folder or a .gguf file")->required()->type_name("PATH");
  command->add_flag("--json", flags->json, "Print one JSON object");
  command->callback([flags, &launch] { launch.chosen = [flags, &launch] { return RunInfo(*flags, launch); }; });
}

}  // namespace duo
