#include "parallel/memory_sharers.h"

#include <algorithm>

namespace duo {

int RanksOnCard(const std::vector<CardId>& cards, int rank) {
  return static_cast<int>(std::count(cards.begin(), cards.end(), cards[rank]));
}

int MemorySharers(Communicator& host, const MpiSession& mpi, const Device& device) {
  // Whatever its device: not all ranks may have one of the same kind, which is refused later.
  const CardId own = CardOf(device);
  std::vector<CardId> cards(host.size());
  host.AllGatherHost(cards.data(), &own, sizeof own);
  return device.is_cuda() ? RanksOnCard(cards, host.rank()) : mpi.local_size();
}

}  // namespace duo
