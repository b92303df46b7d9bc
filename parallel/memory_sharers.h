// How many ranks share one memory, and so plan with a part of it each: CPU ranks of one host its memory, ranks on one
// GPU that GPU's. Which GPU is told by its UUID.
#pragma once

#include <vector>

#include "kernels/base/card_id.h"
#include "kernels/base/device.h"
#include "parallel/communicator.h"
#include "parallel/mpi_session.h"

namespace duo {

// cards  // [ranks]
// How many ranks are on the card of `rank`, itself included.
int RanksOnCard(const std::vector<CardId>& cards, int rank);

// Collective: of this rank's memory. What Device::ShareMemory is to be told.
int MemorySharers(Communicator& host, const MpiSession& mpi, const Device& device);

}  // namespace duo
