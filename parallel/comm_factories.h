// The makers of the communicators over several ranks, for MakeCommunicator alone (comm_self's is public). Collective:
// every rank makes the same call.
#pragma once

#include <cstddef>
#include <memory>

#include "parallel/communicator.h"
#include "parallel/mpi_session.h"

namespace duo {

// piece_bytes: the longest message given to MPI at once, whose counts are ints; longer ones go in pieces. Tests ask for
// short ones.
std::unique_ptr<Communicator> MakeMpiCommunicator(MpiSession& session, size_t piece_bytes = size_t{1} << 30);
// Only in programs built with NCCL. `device` is a CUDA device that no other rank uses. peer_memory: on one host small
// messages go through peer_memory.h, where the GPUs can.
std::unique_ptr<Communicator> MakeNcclCommunicator(MpiSession& session, Device& device, bool peer_memory);

}  // namespace duo
