// What the sequences of a step that made page lists found, read back from the device and put together from all ranks.
#pragma once

#include <vector>

#include "kernels/base/device.h"
#include "parallel/communicator.h"
#include "parallel/shard.h"
#include "runtime/kv/kv_cache.h"
#include "runtime/model/decode_sparsity.h"

namespace duo {

// kv_heads: of a layer of the model. slots: of the lists. Collective; the same on every rank. Waits for the device.
ChosenLists ReadChosenLists(Device& device, Communicator& comm, const KvCache& cache, const RankShard& shard,
                            int64_t kv_heads, std::vector<int32_t> slots);

}  // namespace duo
