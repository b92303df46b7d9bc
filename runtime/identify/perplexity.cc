#include "runtime/identify/perplexity.h"

#include <algorithm>
#include <cmath>

#include "kernels/base/check.h"
#include "kernels/base/math.h"

namespace duo {
namespace {

// -log softmax(logits)[token], summed in double.
double NegativeLogLikelihood(const std::vector<float>& logits, int32_t token, ThreadPool& pool) {
  constexpr size_t kBlock = 8192;
  const size_t blocks = CeilDiv(logits.size(), kBlock);
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

double Perplexity::perplexity() const { return std::exp(mean); }

std::vector<std::vector<int32_t>> PerplexityWindows(const std::vector<int32_t>& tokens, std::optional<int32_t> bos,
                                                    int window) {
  const size_t step = window - (bos.has_value() ? 1 : 0);
  std::vector<std::vector<int32_t>> windows;
  for (size_t first = 0; first < tokens.size(); first += step) {
    std::vector<int32_t> piece;
    if (bos.has_value()) piece.push_back(*bos);
    piece.insert(piece.end(), tokens.begin() + first, tokens.begin() + std::min(tokens.size(), first + step));
    if (piece.size() > 1) windows.push_back(std::move(piece));
  }
  return windows;
}

absl::StatusOr<Perplexity> MeasurePerplexity(Engine& engine, const std::vector<std::vector<int32_t>>& windows,
                                             ThreadPool& pool, const std::function<void(int64_t, int64_t)>& progress) {
  int64_t total = 0, predicted = 0;
  for (const std::vector<int32_t>& window : windows) total += static_cast<int64_t>(window.size()) - 1;
  double nll = 0, mass = 0;
  int64_t audits = 0;
  for (const std::vector<int32_t>& window : windows) {
    absl::StatusOr<SessionId> session = engine.CreateSession(static_cast<int64_t>(window.size()));
    if (!session.ok()) return session.status();
    absl::Status read;
    size_t next = 1;
    RequestEvents events;
    events.on_logits = [&](const std::vector<float>& logits) {
      nll += NegativeLogLikelihood(logits, window[next++], pool);
      progress(++predicted, total);
    };
    events.on_done = [&](const RequestResult& result) {
      read = result.status;
      audits += result.sparse.audits;
      mass += static_cast<double>(result.sparse.audits) * result.sparse.mass;
    };
    auto append = engine.Append(*session, {window.begin(), window.end() - 1}, std::move(events));
    if (!append.ok()) return append.status();
    while (engine.Step()) {
    }
    if (!read.ok()) return read;
    if (absl::Status s = engine.CloseSession(*session); !s.ok()) return s;
  }
  DUO_CHECK_EQ(predicted, total);
  return Perplexity{nll / static_cast<double>(std::max<int64_t>(total, 1)), total, audits,
                    audits > 0 ? mass / static_cast<double>(audits) : 1};
}

}  // namespace duo
