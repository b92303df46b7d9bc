#include "parallel/communicator.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"
#include "parallel/comm_factories.h"
#include "parallel/mpi_session.h"

namespace duo {
namespace {

#ifdef DUO_HAVE_NCCL
constexpr bool kHaveNccl = true;
#else
constexpr bool kHaveNccl = false;
#endif

// What every message starts with: its length and as much of it as fits, so that a decode step's plan is one collective.
struct FirstBlock {
  uint64_t bytes = 0;  // 0: a heartbeat
  uint8_t data[4088];
};
static_assert(sizeof(FirstBlock) == 4096);

// A rank's part in Agree.
struct Verdict {
  int32_t code = 0;
  char host[64];
  char message[956];
};

}  // namespace

absl::StatusOr<CommKind> ParseCommKind(std::string_view name) {
  if (name == "auto") return CommKind::kAuto;
  if (name == "mpi") return CommKind::kMpi;
  if (name == "nccl") return CommKind::kNccl;
  return absl::InvalidArgumentError(
      absl::StrCat("--comm: expected auto, mpi or nccl, found '", std::string(name), "'"));
}

absl::StatusOr<std::unique_ptr<Communicator>> MakeCommunicator(CommKind kind, MpiSession* session, Device& device) {
  if (session == nullptr || session->size() == 1) return MakeSelfCommunicator();
  if (kind == CommKind::kNccl && !device.is_cuda()) {
    return absl::InvalidArgumentError("--comm nccl: expected a CUDA device, found the CPU; use --comm mpi");
  }
  if (kind == CommKind::kNccl && !kHaveNccl) {
    return absl::InvalidArgumentError(
        "--comm nccl: expected a program built with NCCL, found one built without; use --comm mpi");
  }
#ifdef DUO_HAVE_NCCL
  if (kind != CommKind::kMpi && device.is_cuda()) {
    return MakeNcclCommunicator(*session, device, kind == CommKind::kAuto);
  }
#endif
  return MakeMpiCommunicator(*session);
}

std::unique_ptr<Communicator> MakeHostCommunicator(MpiSession& session) { return MakeMpiCommunicator(session); }

absl::StatusOr<int> LocalGpu(CommKind kind, const MpiSession* session, int gpus) {
  if (gpus < 1) return absl::FailedPreconditionError("GPU: expected at least one on this host, found none");
  if (session == nullptr) return 0;
  const bool shared = kind == CommKind::kMpi || (kind == CommKind::kAuto && !kHaveNccl);
  if (!shared && session->local_size() > gpus) {
    return absl::FailedPreconditionError(
        absl::StrCat("host ", session->host(session->rank()), ": expected at most one rank for each of ", gpus,
                     " GPUs, found ", session->local_size(), " ranks; --comm mpi lets ranks share a GPU"));
  }
  return session->local_rank() % gpus;
}

void SendMessage(Communicator& comm, const std::vector<uint8_t>& message) {
  DUO_CHECK_EQ(comm.rank(), 0);
  DUO_CHECK(!message.empty());
  if (comm.size() == 1) return;
  FirstBlock block;
  block.bytes = message.size();
  const size_t first = std::min(message.size(), sizeof(block.data));
  std::memcpy(block.data, message.data(), first);
  std::memset(block.data + first, 0, sizeof(block.data) - first);
  comm.Broadcast(&block, sizeof(block), 0);
  if (first < message.size()) {
    // Broadcast fills the buffer of every rank but the root, which only reads it.
    comm.Broadcast(const_cast<uint8_t*>(message.data()) + first, message.size() - first, 0);
  }
}

void SendHeartbeat(Communicator& comm) {
  DUO_CHECK_EQ(comm.rank(), 0);
  if (comm.size() == 1) return;
  FirstBlock block{};
  comm.Broadcast(&block, sizeof(block), 0);
  comm.Barrier(Wait{.timeout_seconds = kSilenceSeconds});
}

std::vector<uint8_t> ReceiveMessage(Communicator& comm) {
  DUO_CHECK_GT(comm.rank(), 0);
  const Wait wait{.timeout_seconds = kSilenceSeconds};
  for (;;) {
    FirstBlock block;
    comm.Broadcast(&block, sizeof(block), 0, wait);
    if (block.bytes == 0) {
      comm.Barrier(wait);
      continue;
    }
    std::vector<uint8_t> message(block.bytes);
    const size_t first = std::min(message.size(), sizeof(block.data));
    std::memcpy(message.data(), block.data, first);
    if (first < message.size()) comm.Broadcast(message.data() + first, message.size() - first, 0, wait);
    return message;
  }
}

absl::Status Agree(Communicator& comm, const absl::Status& status) {
  if (comm.size() == 1) return status;
  Verdict mine{};
  mine.code = static_cast<int32_t>(status.code());
  gethostname(mine.host, sizeof(mine.host) - 1);
  const std::string text(status.message());
  std::memcpy(mine.message, text.data(), std::min(text.size(), sizeof(mine.message) - 1));
  std::vector<Verdict> all(comm.size());
  comm.AllGatherHost(all.data(), &mine, sizeof(mine));
  for (int r = 0; r < comm.size(); ++r) {
    if (all[r].code == 0) continue;
    const std::string rank = r == 0 ? "" : absl::StrCat("rank ", r, " on ", all[r].host, ": ");
    return absl::Status(static_cast<absl::StatusCode>(all[r].code), absl::StrCat(rank, all[r].message));
  }
  return absl::OkStatus();
}

}  // namespace duo
