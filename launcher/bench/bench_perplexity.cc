// `duo bench perplexity`: exp of the mean negative log-likelihood of a text's tokens, window by window.

#include <algorithm>
#include <cstdio>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/read_file.h"
#include "kernels/base/seconds.h"
#include "launcher/bench/bench.h"
#include "launcher/terminal/progress.h"
#include "runtime/identify/perplexity.h"
#include "runtime/text/tokenizer_folder.h"
#include "runtime/weights/config.h"

namespace duo {
namespace {

absl::StatusOr<std::vector<std::vector<int32_t>>> Windows(const BenchFlags& flags) {
  absl::StatusOr<std::string> text = ReadFile(flags.text);
  if (!text.ok()) return text.status();
  absl::StatusOr<ModelConfig> config = LoadConfig(flags.runtime.model);
  if (!config.ok()) return config.status();
  absl::StatusOr<Tokenizer> tokenizer = LoadTokenizerOf(flags.runtime.model, config->vocab);
  if (!tokenizer.ok()) return tokenizer.status();
  absl::StatusOr<std::vector<int32_t>> read = tokenizer->Encode(*text, {.add_special_tokens = false});
  if (!read.ok()) return read.status();
  std::vector<int32_t> tokens = *std::move(read);
  if (flags.tokens > 0) tokens.resize(std::min<size_t>(tokens.size(), flags.tokens));
  std::vector<std::vector<int32_t>> windows = PerplexityWindows(tokens, tokenizer->bos_id(), flags.window);
  if (windows.empty())
    return absl::InvalidArgumentError(absl::StrCat(flags.text, ": the text has no token to predict"));
  return windows;
}

}  // namespace

absl::Status BenchPerplexity(const BenchFlags& flags, const Launch& launch, Runtime& runtime) {
  absl::StatusOr<std::vector<std::vector<int32_t>>> windows = std::vector<std::vector<int32_t>>();
  if (runtime.leader()) windows = Windows(flags);
  if (absl::Status s = Agree(*runtime.comm, windows.status()); !s.ok()) return s;
  EngineOptions options = MakeEngineOptions(flags.runtime, launch);
  options.sessions = 1;
  options.questions = 1;
  options.max_session_tokens = options.kv_tokens = flags.window;
  options.append_logits = true;
  absl::StatusOr<std::unique_ptr<Engine>> engine = OpenEngine(flags.runtime, options, runtime);
  if (!engine.ok()) return engine.status();
  if (!runtime.leader()) {
    (*engine)->Follow();
    return absl::OkStatus();
  }

  const Clock::time_point start = Clock::now();
  Progress progress("predicting", "tokens", false);
  absl::StatusOr<Perplexity> measured = MeasurePerplexity(
      **engine, *windows, runtime.device->pool(), [&](int64_t done, int64_t total) { progress.Update(done, total); });
  progress.Done();
  if (!measured.ok()) return measured.status();
  const int64_t total = measured->predicted;
  const double mean = measured->mean, perplexity = measured->perplexity();
  const double seconds = SecondsSince(start);
  const HeadPlan& heads = (*engine)->heads();
  if (flags.json) {
    const nlohmann::ordered_json out = {{"bench", "perplexity"},
                                        {"model", flags.runtime.model},
                                        {"text", flags.text},
                                        {"perplexity", perplexity},
                                        {"nll", mean},
                                        {"predicted_tokens", total},
                                        {"windows", windows->size()},
                                        {"window", flags.window},
                                        {"attention", flags.runtime.attention},
                                        {"retrieval_heads", heads.retrieval_heads()},
                                        {"streaming_heads", heads.streaming_heads()},
                                        {"weights", flags.runtime.weights},
                                        {"kv", Name((*engine)->kv_format())},
                                        {"key_means", (*engine)->key_means()},
                                        {"prefill_sparsity", Name((*engine)->prefill_sparsity())},
                                        {"audits", measured->audits},
                                        {"mass", measured->mass},
                                        {"seconds", seconds},
                                        {"device", runtime.device->info().name},
                                        {"world", runtime.comm->size()}};
    std::printf("%s\n", out.dump(2).c_str());
    return absl::OkStatus();
  }
  std::string sparse;
  if ((*engine)->prefill_sparsity().on()) {
    sparse = absl::StrFormat(", prefill sparsity %s kept %.2f %% of attention in %d audits",
                             Name((*engine)->prefill_sparsity()), 100 * measured->mass, measured->audits);
  }
  std::printf(
      "perplexity %.4f (mean negative log-likelihood %.5f) of %s tokens in %d %s of %d; weights %s, KV cache %s, "
      "%d retrieval + %d streaming heads%s; %s\n",
      perplexity, mean, Grouped(total).c_str(), static_cast<int>(windows->size()),
      windows->size() == 1 ? "window" : "windows", flags.window,
      flags.runtime.weights == "auto" ? "as stored" : flags.runtime.weights.c_str(), Name((*engine)->kv_format()),
      heads.retrieval_heads(), heads.streaming_heads(), sparse.c_str(), Duration(seconds).c_str());
  return absl::OkStatus();
}

}  // namespace duo
