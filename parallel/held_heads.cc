#include "parallel/held_heads.h"

#include <cstdint>
#include <map>

namespace duo {

HeldHeads HeldBy(const Partition& partition, int rank) {
  HeldHeads held;
  std::map<int, int64_t> slots;  // of pieces, by the slots of a whole head
  for (const std::vector<RankHeads>& layer : partition.layers) {
    held.whole += static_cast<int>(layer[rank].whole.size());
    held.streaming += static_cast<int>(layer[rank].streaming.size());
    for (const SplitPiece& piece : layer[rank].split) slots[piece.of] += piece.last - piece.first;
  }
  for (const auto& [of, held_slots] : slots) held.split += static_cast<double>(held_slots) / of;
  return held;
}

}  // namespace duo
