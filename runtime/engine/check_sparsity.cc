// Which models and settings sparse attention is refused for, before anything is loaded.
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/page_lists.h"
#include "runtime/engine/engine_state.h"

namespace duo {
namespace {

// Of a chunk, so that it holds a whole block wherever it begins.
constexpr int kLeastSparseChunk = 2 * kBlockTokens;

}  // namespace

// Whether this model can be read and answered from by page lists on this device, where that is wanted.
absl::Status Engine::State::CheckSparsity() {
  const std::pair<bool, std::string> flags[] = {{options.prefill_sparsity.on(), "--prefill-sparsity"},
                                                {options.decode_sparsity.on(), "--decode-sparsity"},
                                                {options.speculate == Speculation::kSelf, "--speculate self"}};
  if (options.decode_sparsity.on() && options.speculate == Speculation::kSelf) {
    return absl::InvalidArgumentError(
        "--speculate self guesses from page lists and keeps answers exact, with --decode-sparsity they are written "
        "from "
        "lists: only one of them can be on");
  }
  for (const auto& [on, flag] : flags) {
    if (!on) continue;
    if (config.attention_sinks || config.sliding_window > 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(flag, ": models with ", config.attention_sinks ? "learned attention sinks" : "sliding windows",
                       " are dense; leave it off"));
    }
    NoteSplitHeads(flag);
  }
  if (!options.prefill_sparsity.on()) return absl::OkStatus();
  if (options.chunk > 0 && options.chunk < kLeastSparseChunk) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "--prefill-sparsity needs a --chunk of at least %d, %d is asked for", kLeastSparseChunk, options.chunk));
  }
  options.prefixes = 0;  // a prompt's text would depend on what was read before it
  return CheckPageLists(*device, config.head_dim, config.heads / config.kv_heads, kv);
}

// Heads that are split over ranks have no lists.
void Engine::State::NoteSplitHeads(const std::string& flag) {
  size_t split = 0;
  for (const auto& layer : partition.layers) split += SplitHeads(layer).size();
  if (split == 0 || comm->rank() != 0) return;
  notes.push_back(absl::StrFormat("%s: %d of %d retrieval heads are split over ranks and dense", flag, split,
                                  heads.retrieval_heads()));
}

}  // namespace duo
