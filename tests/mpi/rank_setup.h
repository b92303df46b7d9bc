// How the programs of tests/mpi start on every rank, and agree on what failed.
#pragma once

#include <memory>
#include <string>

#include "kernels/base/device.h"
#include "parallel/communicator.h"
#include "parallel/mpi_session.h"

namespace duo {

// In the order in which they may go.
struct Ranks {
  std::unique_ptr<MpiSession> mpi;
  std::unique_ptr<Device> device;  // a CPU of one thread, or this rank's GPU
  std::unique_ptr<Communicator> comm;

  bool leader() const { return comm->rank() == 0; }
};

// Collective; ends the job where it cannot be had.
Ranks StartRanks(bool cuda, CommKind kind);

// Whether `wrong`, which counts on rank 0, is not empty: the same on every rank. Rank 0 prints it with the case's text.
bool Failed(Ranks& ranks, const std::string& text, const std::string& wrong);

// Of a program whose only flag is `--device cuda`. False: it was called otherwise, and has been told so.
bool ParseDevice(int argc, char** argv, bool* cuda);

}  // namespace duo
