#include "launcher/bench/bench.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "attn_patterns/lookup.h"
#include "kernels/machine_rates.h"
#include "launcher/terminal/progress.h"
#include "runtime/weights/mixed_formats.h"

namespace duo {
namespace {

struct Shape {
  const char* name;
  int layers, hidden, intermediate, heads, kv_heads, head_dim, vocab;
  bool tied;
  int experts = 0, chosen = 0;  // intermediate is then an expert's
};
constexpr Shape kShapes[] = {
    {"llama-3-8b", 32, 4096, 14336, 32, 8, 128, 128256, false},
    {"llama-2-7b", 32, 4096, 11008, 32, 32, 128, 32000, false},
    {"llama-3-70b", 80, 8192, 28672, 64, 8, 128, 128256, false},
    {"mistral-7b", 32, 4096, 14336, 32, 8, 128, 32768, false},
    {"llama-3.2-1b", 16, 2048, 8192, 32, 8, 64, 128256, true},
    {"mixtral-8x7b", 32, 4096, 14336, 32, 8, 128, 32000, false, 8, 2},
    {"qwen2.5-7b", 28, 3584, 18944, 28, 4, 128, 152064, false},
    {"qwen2.5-7b-1m", 28, 3584, 18944, 28, 4, 128, 152064, false},
    {"qwen3-30b-a3b", 48, 2048, 768, 32, 4, 128, 151936, false, 128, 8},
    {"qwen3-30b-a3b-1m", 48, 2048, 768, 32, 4, 128, 151936, false, 128, 8},
    {"gpt-oss-20b", 24, 2880, 2880, 64, 8, 64, 201088, false, 32, 4},
    {"smollm2-135m", 30, 576, 1536, 9, 3, 64, 49152, true},
    {"needle-6m", 6, 256, 704, 8, 4, 64, 4096, true},
};

absl::StatusOr<HeadPlan> BenchHeads(const BenchFlags& flags, const std::string& attention, const ModelConfig& shape) {
  if (attention == "full") return FullPlan(shape.layers, shape.kv_heads);
  Pattern pattern;
  if (flags.runtime.pattern.empty()) {
    pattern.layers = shape.layers;
    pattern.kv_heads = shape.kv_heads;
    pattern.gates.assign(int64_t{shape.layers} * shape.kv_heads, 1.0);  // all tied: the tie rule spreads them
    pattern.sink = 64;
    pattern.recent = 256;
  } else {
    absl::StatusOr<FoundPattern> found = OpenPattern(flags.runtime.pattern, shape.layers, shape.kv_heads);
    if (!found.ok()) return found.status();
    pattern = found->pattern;
  }
  absl::StatusOr<HeadPlan> plan = flags.runtime.threshold.has_value()
                                      ? PlanByThreshold(pattern, *flags.runtime.threshold)
                                      : PlanBySparsity(pattern, flags.runtime.sparsity.value_or(0.5));
  if (!plan.ok()) return plan;
  plan->sink = flags.runtime.sink.value_or(plan->sink);
  plan->recent = flags.runtime.recent.value_or(plan->recent);
  return plan;
}

// Logits of the token after `tokens`, appended in pieces of `piece`.
absl::StatusOr<std::vector<float>> LogitsAfter(Engine& engine, const std::vector<int32_t>& tokens, int64_t piece) {
  absl::StatusOr<SessionId> session = engine.CreateSession(static_cast<int64_t>(tokens.size()) + 2);
  if (!session.ok()) return session.status();
  std::vector<float> logits;
  const auto last = static_cast<int64_t>(tokens.size()) - 1;
  for (int64_t at = 0; at < last; at += piece) {
    RequestEvents none;
    auto append = engine.Append(*session, {tokens.begin() + at, tokens.begin() + std::min(last, at + piece)}, none);
    if (!append.ok()) return append.status();
    while (engine.Step()) {
    }
  }
  GenerateParams params;
  params.max_new_tokens = 1;
  params.keep = true;
  params.want_logits = true;
  RequestEvents events;
  events.on_logits = [&](const std::vector<float>& row) { logits = row; };
  auto ask = engine.Ask(*session, {tokens.back()}, params, events);
  if (!ask.ok()) return ask.status();
  while (engine.Step()) {
  }
  if (absl::Status s = engine.CloseSession(*session); !s.ok()) return s;
  return logits;
}

}  // namespace

Rates RatesOf(Device& device) {
  if (!device.is_cuda()) {
    Rates rates;
    rates.copy = MeasureReadBandwidth(device);
    rates.gemm = rates.attention = MeasureFmaRate(device);
    rates.source = "measured in this run: memory reads, f32 FMA";
    return rates;
  }
  if (absl::StrContains(device.info().name, "H200"))
    return {4.3e12, 768e12, 640e12, "H200: copy 4.3 TB/s, GEMM and attention of the H100"};
  return {3.03e12, 768e12, 640e12,
          "H100 80GB, fixed: copy 3.03 TB/s, bf16 GEMM 768 TFLOP/s, causal attention 640 TFLOP/s"};
}

std::string ShapeNames() {
  std::string names;
  for (const Shape& s : kShapes) absl::StrAppend(&names, names.empty() ? "" : ", ", s.name);
  return names;
}

// Biases, learned sinks, clamped gates, and a window of 128 tokens in every other layer.
void BecomeGptOss(ModelConfig& config) {
  config.family = Family::kGptOss;
  config.attention_bias = config.o_bias = config.expert_bias = config.attention_sinks = true;
  config.sliding_window = 128;
  config.window_layers.resize(config.layers);
  for (int layer = 0; layer < config.layers; ++layer) config.window_layers[layer] = layer % 2 == 0;
  config.experts.gate_limit = 7;
  config.experts.gate_alpha = 1.702;
}

absl::StatusOr<ModelConfig> ShapeNamed(const std::string& name) {
  for (const Shape& s : kShapes) {
    if (name != s.name) continue;
    ModelConfig config;
    config.layers = s.layers;
    config.hidden = s.hidden;
    config.intermediate = s.intermediate;
    config.heads = s.heads;
    config.kv_heads = s.kv_heads;
    config.head_dim = s.head_dim;
    config.vocab = s.vocab;
    config.tie_embeddings = s.tied;
    config.max_position_embeddings = int64_t{1} << 23;
    config.rope.theta = 1e8;
    if (s.experts > 0) {
      config.family = s.experts == 8 ? Family::kMixtral : Family::kQwen3Moe;
      config.qk_norm = config.family == Family::kQwen3Moe;
      ExpertsConfig& experts = config.experts;
      experts.count = s.experts;
      experts.chosen = s.chosen;
      experts.intermediate = s.intermediate;
      experts.normalised = true;
      experts.layers.assign(s.layers, 1);
      if (name == "gpt-oss-20b") BecomeGptOss(config);
    }
    if (absl::StartsWith(name, "qwen2.5")) {
      config.family = Family::kQwen2;
      config.attention_bias = true;
    }
    // As Qwen2.5-1M's and Qwen3-2507-1M's config.json have it.
    if (absl::EndsWith(name, "-1m")) config.dual_chunk = {262144, 8192, 262144};
    return config;
  }
  return absl::InvalidArgumentError(absl::StrCat("--shape ", name, " is not known; there are ", ShapeNames()));
}

absl::StatusOr<ModelConfig> BenchModel(const BenchFlags& flags) {
  return flags.runtime.model.empty() ? ShapeNamed(flags.shape) : LoadConfig(flags.runtime.model);
}

absl::StatusOr<ProbeOptions> BenchEngine(const BenchFlags& flags, const Launch& launch, const std::string& attention,
                                         int64_t session_tokens) {
  RuntimeFlags runtime = flags.runtime;
  runtime.attention = attention;
  ProbeOptions options{MakeEngineOptions(runtime, launch), std::nullopt, ""};
  options.sessions = 1;
  options.questions = 1;
  options.max_session_tokens = session_tokens;
  options.kv_tokens = session_tokens;
  if (IsMixture(runtime.weights)) options.mixed_weights = runtime.weights;
  if (!runtime.model.empty()) {
    if (options.mixed_weights.empty()) return options;
    return absl::InvalidArgumentError(absl::StrCat("--weights ", options.mixed_weights,
                                                   " is for random weights: a file in that mixture comes as it is, "
                                                   "without --weights"));
  }
  absl::StatusOr<ModelConfig> shape = ShapeNamed(flags.shape);
  if (!shape.ok()) return shape.status();
  if (runtime.weights == "mxfp4" && shape->experts.count == 0) {
    return absl::InvalidArgumentError(absl::StrCat("--weights mxfp4 is for experts, and ", flags.shape,
                                                   " has none: take a shape with experts, for example gpt-oss-20b"));
  }
  absl::StatusOr<HeadPlan> heads = BenchHeads(flags, attention, *shape);
  if (!heads.ok()) return heads.status();
  options.shape = *shape;
  options.heads = *heads;
  return options;
}

absl::StatusOr<EngineCheck> VerifyEngine(Engine& engine) {
  std::vector<int32_t> tokens(320);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>((i * 7919 + 13) % engine.config().vocab);
  const bool mixture = engine.config().experts.count > 0;
  EngineProbe probe(engine);
  auto watch = [&](RouteWatch watch) {
    if (mixture) probe.Watch(watch);
  };
  watch(RouteWatch::kRecord);
  absl::StatusOr<std::vector<float>> chunk = LogitsAfter(engine, tokens, 1024);
  watch(RouteWatch::kReplay);
  absl::StatusOr<std::vector<float>> rows = LogitsAfter(engine, tokens, 48);
  const RouteReport routes = probe.Routes();
  watch(RouteWatch::kOff);
  if (!chunk.ok()) return chunk.status();
  if (!rows.ok()) return rows.status();
  double difference = 0, norm = 0;
  for (size_t i = 0; i < chunk->size(); ++i) {
    difference += std::pow((*chunk)[i] - (*rows)[i], 2);
    norm += std::pow((*chunk)[i], 2);
  }
  const EngineCheck check = {std::sqrt(difference / norm), routes.logit_error};
  // Rounding differs between the two ways; where it moves a key across the edge of a 4-bit or e4m3 code, the logits of
  // a deep random model move by some per cent. A wrong mask, page or scale gives errors of the order of 1.
  const bool coarse = engine.kv_format() == KvFormat::kInt4 || engine.kv_format() == KvFormat::kFp8;
  const double allowed = coarse ? 0.2 : 0.05;
  if (!(check.error <= allowed)) {
    return absl::InternalError(
        absl::StrFormat("verification failed: prefill and row-wise logits differ by %.3g (relative L2)", check.error));
  }
  if (mixture && !(routes.complete && routes.wrong_places == 0 && check.router_error <= allowed)) {
    return absl::InternalError(
        absl::StrFormat("verification failed: routers' logits of prefill and row-wise differ by %.3g (relative L2), %d "
                        "experts are not those of the largest logits%s",
                        check.router_error, routes.wrong_places, routes.complete ? "" : ", rows are missing"));
  }
  return check;
}

bool InCache(const Measurement& row, bool on_cuda) {
  return !on_cuda && row.seconds > 0 && row.floor_seconds > row.seconds;
}

std::string RowText(const Measurement& row, size_t width, bool on_cuda) {
  const bool small = row.seconds<1, has_floor = row.floor_seconds> 0;
  const auto time = [small](double seconds) {
    return absl::StrFormat("%.3f %s", seconds * (small ? 1e3 : 1), small ? "ms" : "s ");
  };
  return absl::StrFormat("%-*s %12s %12s %12s %8s", static_cast<int>(width), row.what,
                         row.context > 0 ? Grouped(row.context) : "-", time(row.seconds),
                         has_floor ? time(row.floor_seconds) : "-  ",
                         !has_floor              ? "-"
                         : InCache(row, on_cuda) ? "in cache"
                                                 : absl::StrFormat("%.1f%%", 100 * row.floor_seconds / row.seconds));
}

void PrintRows(const BenchFlags& flags, const Runtime& runtime, const Rates& rates,
               const std::vector<Measurement>& rows, const char* verb) {
  if (flags.json) {
    nlohmann::ordered_json out;
    out["bench"] = verb;
    out["model"] = flags.runtime.model.empty() ? flags.shape : flags.runtime.model;
    out["device"] = runtime.device->info().name;
    out["world"] = runtime.comm->size();
    out["threads"] = runtime.device->pool().threads();
    out["rates"] = {{"copy_bytes_per_second", rates.copy},
                    {"gemm_flops", rates.gemm},
                    {"attention_flops", rates.attention},
                    {"source", rates.source}};
    out["rows"] = nlohmann::ordered_json::array();
    for (const Measurement& row : rows) {
      nlohmann::ordered_json entry = {{"what", row.what},
                                      {"context", row.context},
                                      {"seconds", row.seconds},
                                      {"floor_seconds", row.floor_seconds},
                                      {"floor_share", row.seconds > 0 ? row.floor_seconds / row.seconds : 0}};
      if (InCache(row, runtime.device->is_cuda())) entry["in_cache"] = true;
      entry.update(row.details);
      out["rows"].push_back(entry);
    }
    std::printf("%s\n", out.dump(2).c_str());
    return;
  }
  std::printf("%s on %s, %d %s; floors: %s\n", verb, runtime.device->info().name.c_str(), runtime.comm->size(),
              runtime.comm->size() == 1 ? "rank" : "ranks", rates.source.c_str());
  size_t width = 4;
  for (const Measurement& row : rows) width = std::max(width, row.what.size());
  std::printf("%-*s %12s %12s %12s %8s\n", static_cast<int>(width), "", "tokens", "time", "floor", "ratio");
  for (const Measurement& row : rows) {
    std::printf("%s", RowText(row, width, runtime.device->is_cuda()).c_str());
    for (const auto& [key, value] : row.details.items()) {
      if (value.is_number_float()) std::printf("  %s %.4g", key.c_str(), value.get<double>());
      if (value.is_string()) std::printf("  %s %s", key.c_str(), value.get<std::string>().c_str());
      if (value.is_array()) {
        std::printf("  %s", key.c_str());
        for (const auto& number : value) std::printf(" %.4g", number.get<double>());
      }
    }
    std::printf("\n");
  }
}

absl::Status PrintKernelRows(const BenchFlags& flags, const Runtime& runtime, const Rates& rates,
                             const std::vector<BenchRow>& rows, const char* verb) {
  std::vector<Measurement> measured;
  for (const BenchRow& row : rows) {
    if (!row.verified) {
      return absl::InternalError(
          absl::StrFormat("%s %s: verification failed, error %.3g", row.what, row.shape, row.error));
    }
    Measurement m;
    m.what = row.what + " " + row.shape;
    m.seconds = row.seconds;
    m.floor_seconds = row.floor;
    m.details = {{"verified_error", row.error}};
    measured.push_back(m);
  }
  PrintRows(flags, runtime, rates, measured, verb);
  return absl::OkStatus();
}

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

}  // namespace duo
