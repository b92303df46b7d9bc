#include "runtime/model/best_logits.h"

#include <algorithm>
#include <limits>

namespace duo {

std::vector<std::vector<Candidate>> BestLogits(Device& device, Communicator& comm, const LogitShard& own, int count,
                                               Arena& arena) {
  const size_t mark = arena.used();
  const auto rows = static_cast<size_t>(own.logits.rows);
  const auto mine = static_cast<size_t>(std::min<int64_t>(count, own.logits.cols));
  std::vector<float> values(rows * count, -std::numeric_limits<float>::infinity());
  std::vector<int32_t> ids(rows * count, -1);
  if (mine > 0) {
    std::vector<float> own_values(rows * mine);
    std::vector<int32_t> own_ids(rows * mine);
    auto* device_values = static_cast<float*>(arena.Take(4 * rows * mine));
    auto* device_ids = static_cast<int32_t*>(arena.Take(4 * rows * mine));
    TopLogits(device, {device_values, device_ids, static_cast<int>(mine)}, own.logits, own.first_id, arena);
    device.Download(own_values.data(), device_values, 4 * rows * mine);
    device.Download(own_ids.data(), device_ids, 4 * rows * mine);
    for (size_t row = 0; row < rows; ++row) {
      std::copy_n(own_values.begin() + row * mine, mine, values.begin() + row * count);
      std::copy_n(own_ids.begin() + row * mine, mine, ids.begin() + row * count);
    }
  }
  arena.Rewind(mark);
  std::vector<float> all_values(values.size() * comm.size());
  std::vector<int32_t> all_ids(ids.size() * comm.size());
  comm.AllGatherHost(all_values.data(), values.data(), 4 * values.size());
  comm.AllGatherHost(all_ids.data(), ids.data(), 4 * ids.size());
  std::vector<std::vector<Candidate>> best(rows);
  for (size_t row = 0; row < rows; ++row) {
    for (int rank = 0; rank < comm.size(); ++rank) {
      for (size_t i = (rank * rows + row) * count; i < (rank * rows + row + 1) * count; ++i) {
        if (all_ids[i] >= 0) best[row].push_back({all_values[i], all_ids[i]});
      }
    }
    std::sort(best[row].begin(), best[row].end(), [](const Candidate& a, const Candidate& b) {
      return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
    });
  }
  return best;
}

size_t BestLogitsBytes(const Device& device, int64_t rows, int64_t shard, int count) {
  const int64_t most = std::min<int64_t>(count, shard);
  return 2 * Arena::Rounded(4 * rows * most) + TopLogitsScratchBytes(device, rows, shard, static_cast<int>(most)) +
         4 * Arena::kAlignment;
}

}  // namespace duo
