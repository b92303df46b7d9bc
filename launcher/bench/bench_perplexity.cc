// `duo bench perplexity`: exp of the mean negative log-likelihood of a text's tokens, window by window.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/base/read_file.h"
#include "launcher/bench/bench.h"
#include "launcher/progress.h"
#include "runtime/tokenizer.h"

namespace duo {
namespace {

// Each window is read on its own, without a view of the one before it.
absl::StatusOr<std::vector<std::vector<int32_t>>> Windows(const BenchFlags& flags) {
  absl::StatusOr<std::string> text = ReadFile(flags.text);
  if (!text.ok()) return text.status();
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Load(flags.runtime.model + "/tokenizer.json");
  if (!tokenizer.ok()) return tokenizer.status();
  std::vector<int32_t> tokens = tokenizer->Encode(*text, {.add_special_tokens = false});
  if (flags.tokens > 0) tokens.resize(std::min<size_t>(tokens.size(), flags.tokens));
  const std::optional<int32_t> bos = tokenizer->bos_id();
  const size_t step = flags.window - (bos.has_value() ? 1 : 0);
  std::vector<std::vector<int32_t>> windows;
  for (size_t first = 0; first < tokens.size(); first += step) {
    std::vector<int32_t> window;
    if (bos.has_value()) window.push_back(*bos);
    window.insert(window.end(), tokens.begin() + first, tokens.begin() + std::min(tokens.size(), first + step));
    if (window.size() > 1) windows.push_back(std::move(window));
  }
  if (windows.empty())
    return absl::InvalidArgumentError(absl::StrCat(flags.text, ": the text has no token to predict"));
  return windows;
}

// -log softmax(logits)[token], summed in double.
double NegativeLogLikelihood(const std::vector<float>& logits, int32_t token, ThreadPool& pool) {
  constexpr size_t kBlock = 8192;
  const size_t blocks = (logits.size() + kBlock - 1) / kBlock;
  std::vector<double> tops(blocks), sums(blocks);
  pool.ParallelFor(static_cast<int64_t>(blocks), [&](int64_t block, int) {
    const float* begin = logits.data() + block * kBlock;
    const float* end = std::min(begin + kBlock, logits.data() + logits.size());
    const float top = *std::max_element(begin, end);
    double sum = 0;
    for (const float* x = begin; x < end; ++x) sum += std::exp(*x - top);
    tops[block] = top;
    sums[block] = sum;
  });
  const double top = *std::max_element(tops.begin(), tops.end());
  double sum = 0;
  for (size_t block = 0; block < blocks; ++block) sum += sums[block] * std::exp(tops[block] - top);
  return top + std::log(sum) - logits[token];
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

  const auto start = std::chrono::steady_clock::now();
  int64_t predicted = 0, total = 0;
  for (const std::vector<int32_t>& window : *windows) total += static_cast<int64_t>(window.size()) - 1;
  double nll = 0;
  Progress progress("predicting", "tokens", false);
  for (const std::vector<int32_t>& window : *windows) {
    absl::StatusOr<SessionId> session = (*engine)->CreateSession(static_cast<int64_t>(window.size()));
    if (!session.ok()) return session.status();
    absl::Status read;
    size_t next = 1;
    RequestEvents events;
    events.on_logits = [&](const std::vector<float>& logits) {
      nll += NegativeLogLikelihood(logits, window[next++], runtime.device->pool());
      progress.Update(++predicted, total);
    };
    events.on_done = [&](const RequestResult& result) { read = result.status; };
    auto append = (*engine)->Append(*session, {window.begin(), window.end() - 1}, std::move(events));
    if (!append.ok()) return append.status();
    while ((*engine)->Step()) {
    }
    if (!read.ok()) return read;
    if (absl::Status s = (*engine)->CloseSession(*session); !s.ok()) return s;
  }
  progress.Done();
  DUO_CHECK_EQ(predicted, total);
  const double mean = nll / static_cast<double>(total), perplexity = std::exp(mean);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
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
                                        {"seconds", seconds},
                                        {"device", runtime.device->info().name},
                                        {"world", runtime.comm->size()}};
    std::printf("%s\n", out.dump(2).c_str());
    return absl::OkStatus();
  }
  std::printf(
      "perplexity %.4f (mean negative log-likelihood %.5f) of %s tokens in %d windows of %d; weights %s, KV cache %s, "
      "%d retrieval + %d streaming heads; %s\n",
      perplexity, mean, Grouped(total).c_str(), static_cast<int>(windows->size()), flags.window,
      flags.runtime.weights == "auto" ? "as stored" : flags.runtime.weights.c_str(), Name((*engine)->kv_format()),
      heads.retrieval_heads(), heads.streaming_heads(), Duration(seconds).c_str());
  return absl::OkStatus();
}

}  // namespace duo
