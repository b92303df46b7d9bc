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

// What a program of such cases ends with: rank 0 prints how many of them agree. Returns the exit status.
int Agreed(const Ranks& ranks, const std::string& what, int cases, int failures);

// main() of a program whose only flag is `--device cuda`. run: its cases; returns the exit status.
int RunOnDevice(int argc, char** argv, int (*run)(bool cuda));

}  // namespace duo
