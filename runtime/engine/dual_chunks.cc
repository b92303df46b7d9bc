// Dual chunk attention: whether this engine's sessions need it, and what it is refused with.
#include <string>
#include <utility>

#include "absl/strings/str_format.h"
#include "runtime/engine/engine_state.h"

namespace duo {

// Sessions that stay where plain RoPE gives the same are read plainly, and nothing is refused with them.
absl::Status Engine::State::DecideChunks() {
  const DualChunkConfig& dual = config.dual_chunk;
  if (dual.chunk_size == 0 || limits.max_tokens <= dual.plain()) return absl::OkStatus();
  const std::pair<bool, const char*> flags[] = {{options.prefill_sparsity.on(), "--prefill-sparsity"},
                                                {options.decode_sparsity.on(), "--decode-sparsity"},
                                                {options.speculate == Speculation::kSelf, "--speculate self"},
                                                {options.provenance, "--sources"}};
  for (const auto& [on, flag] : flags) {
    if (!on) continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: a query meets its keys with several rotations in dual chunk attention, which sessions of more than %d "
        "tokens need with this model and scores of pages do not know; leave it off, or keep sessions within that "
        "(serve: --max-session-tokens %d)",
        flag, dual.plain(), dual.plain()));
  }
  chunks.length = static_cast<int32_t>(dual.chunk_size - dual.local_size);
  chunks.size = static_cast<int32_t>(dual.chunk_size);
  chunks.trained = dual.original_max_position_embeddings;
  if (comm->rank() == 0) {
    notes.push_back(absl::StrFormat("tokens beyond the first %d are read by dual chunk attention, in chunks of %d",
                                    dual.plain(), chunks.length));
  }
  return absl::OkStatus();
}

const DualChunk& Engine::dual_chunk() const { return state_->chunks; }

}  // namespace duo
