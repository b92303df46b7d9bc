// The makers of the communicators over several ranks, for MakeCommunicator alone (comm_self's is public). Collective:
// every rank makes the same call.
#pragma once

#include <memory>

#include "parallel/communicator.h"
#include "parallel/mpi_session.h"

namespace duo {

std::unique_ptr<Communicator> MakeMpiCommunicator(MpiSession& session);
// Only in programs built with NCCL. `device` is a CUDA device that no other rank uses. peer_memory: on one host small
// messages go through peer_memory.h, where the GPUs can.
std::unique_ptr<Communicator> MakeNcclCommunicator(MpiSession& session, Device& device, bool peer_memory);

}  // namespace duo
