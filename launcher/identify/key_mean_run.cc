#include "launcher/identify/key_mean_run.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include "absl/strings/str_format.h"
#include "attn_patterns/key_means.h"
#include "kernels/base/seconds.h"
#include "launcher/terminal/progress.h"
#include "runtime/identify/identify_model.h"
#include "runtime/identify/perplexity.h"

namespace duo {
namespace {

constexpr int64_t kMostTokens = 16384, kLeastTokens = 256;  // of the text
constexpr int64_t kWindow = 2048;                           // tokens that are read together

absl::Status Measure(const HeadMassRun& run) {
  const Clock::time_point start = Clock::now();
  const ModelConfig& config = run.inputs.config;
  if (config.attention_sinks) {
    return absl::InvalidArgumentError(
        "--key-means: models with learned attention sinks compare scores with numbers of their own, so that their keys "
        "must stay as they are");
  }
  absl::StatusOr<std::vector<int32_t>> tokens =
      run.inputs.tokenizer.Encode(run.inputs.haystack, {.add_special_tokens = false});
  if (!tokens.ok()) return tokens.status();
  tokens->resize(std::min<size_t>(tokens->size(), kMostTokens));
  if (static_cast<int64_t>(tokens->size()) < kLeastTokens) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: expected a text of at least %d tokens, found %d",
                                                      run.flags.key_means, kLeastTokens, tokens->size()));
  }
  IdentifyModel::Sizes sizes;
  sizes.max_tokens = std::min(kWindow, MaxPlainPositions(config));
  absl::StatusOr<IdentifyModel> model = absl::InternalError("");
  {
    Progress progress("loading weights", "B", false);
    model = IdentifyModel::Load(run.flags.runtime.model, sizes, *run.runtime.device,
                                [&](int64_t done, int64_t total) { progress.Update(done, total); });
  }
  if (!model.ok()) return model.status();

  KeyMeans means;
  means.layers = static_cast<int>(config.layers);
  means.kv_heads = static_cast<int>(config.kv_heads);
  means.head_dim = static_cast<int>(config.head_dim);
  means.values.assign(int64_t{means.layers} * means.kv_heads * means.head_dim, 0.0);
  const auto windows = PerplexityWindows(*tokens, run.inputs.tokenizer.bos_id(), static_cast<int>(sizes.max_tokens));
  Progress progress("reading", "windows", false);
  for (size_t w = 0; w < windows.size(); ++w) {
    const std::vector<double> sums = model->KeySums(windows[w]);
    for (size_t i = 0; i < sums.size(); ++i) means.values[i] += sums[i];
    means.tokens += static_cast<int64_t>(windows[w].size()) - 1;
    progress.Update(static_cast<int64_t>(w) + 1, static_cast<int64_t>(windows.size()));
  }
  progress.Done();
  for (double& value : means.values) value /= static_cast<double>(means.tokens);
  if (absl::Status s = WriteKeyMeans(means, run.flags.out); !s.ok()) return s;
  std::printf("%s/%s: mean keys of %d KV heads over %d tokens in %.1f s\n", run.flags.out.c_str(), kKeyMeansFile,
              means.layers * means.kv_heads, static_cast<int>(means.tokens), SecondsSince(start));
  return absl::OkStatus();
}

}  // namespace

absl::Status MeasureKeyMeans(const HeadMassRun& run) {
  return Agree(*run.runtime.comm, run.runtime.leader() ? Measure(run) : absl::OkStatus());
}

}  // namespace duo
