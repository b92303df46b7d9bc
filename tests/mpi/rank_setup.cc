#include "tests/mpi/rank_setup.h"

#include <cstdio>
#include <utility>

namespace duo {

Ranks StartRanks(bool cuda, CommKind kind) {
  Ranks ranks;
  ranks.mpi = MpiSession::Start();
  absl::StatusOr<std::unique_ptr<Device>> device = Device::Cpu(1);
  if (cuda) {
    const absl::StatusOr<int> gpu = LocalGpu(kind, ranks.mpi.get(), Device::CudaDeviceCount());
    device = gpu.ok() ? Device::Cuda(*gpu, 1) : gpu.status();
  }
  absl::StatusOr<std::unique_ptr<Communicator>> comm =
      device.ok() ? MakeCommunicator(kind, ranks.mpi.get(), **device) : device.status();
  if (!comm.ok()) ranks.mpi->Abort(std::string(comm.status().message()));
  ranks.device = std::move(*device);
  ranks.comm = std::move(*comm);
  return ranks;
}

bool Failed(Ranks& ranks, const std::string& text, const std::string& wrong) {
  int32_t failed = !wrong.empty();
  ranks.comm->Broadcast(&failed, sizeof failed, 0);
  if (failed != 0 && ranks.leader()) {
    std::fprintf(stderr, "%d ranks: %s: %s\n", ranks.comm->size(), text.c_str(), wrong.c_str());
  }
  return failed != 0;
}

int Agreed(const Ranks& ranks, const std::string& what, int cases, int failures) {
  if (ranks.leader()) std::printf("%s: %d of %d cases agree\n", what.c_str(), cases - failures, cases);
  return failures == 0 ? 0 : 1;
}

int RunOnDevice(int argc, char** argv, int (*run)(bool cuda)) {
  const bool cuda = argc == 3 && std::string(argv[1]) == "--device" && std::string(argv[2]) == "cuda";
  if (argc == 1 || cuda) return run(cuda);
  std::fprintf(stderr, "usage: %s [--device cuda]\n", argv[0]);
  return 2;
}

}  // namespace duo
