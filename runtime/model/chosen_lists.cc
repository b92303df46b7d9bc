#include "runtime/model/chosen_lists.h"

#include <utility>

namespace duo {

ChosenLists ReadChosenLists(Device& device, Communicator& comm, const KvCache& cache, const RankShard& shard,
                            int64_t kv_heads, std::vector<int32_t> slots) {
  const size_t layers = cache.layers().size(), heads = layers * kv_heads;
  std::vector<ListedHead> mine(slots.size() * heads);
  for (size_t l = 0; l < layers; ++l) {
    const DecodeLists& lists = cache.layers()[l].lists;
    if (lists.slots == 0 || lists.num_heads == 0) continue;
    const int first = cache.layers()[l].paged.back().first_head;  // whole heads come last
    std::vector<ListedHead> found(lists.num_heads);
    for (size_t i = 0; i < slots.size(); ++i) {
      device.Download(found.data(), lists.heads + lists.at(slots[i], 0), sizeof(ListedHead) * found.size());
      for (int h = 0; h < lists.num_heads; ++h) {
        mine[i * heads + l * kv_heads + shard.layers[l][first + h].kv_head] = found[h];
      }
    }
  }
  std::vector<ListedHead> all(mine.size() * comm.size());
  comm.AllGatherHost(all.data(), mine.data(), sizeof(ListedHead) * mine.size());
  for (int rank = 0; rank < comm.size(); ++rank) {
    for (size_t i = 0; i < mine.size(); ++i) {
      if (all[rank * mine.size() + i].pages > 0) mine[i] = all[rank * mine.size() + i];
    }
  }
  return {std::move(slots), std::move(mine)};
}

}  // namespace duo
