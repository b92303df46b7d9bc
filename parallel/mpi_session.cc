#include "parallel/mpi_session.h"

#define OMPI_SKIP_MPICXX 1
#include <fcntl.h>
#include <mpi.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>

#include "absl/strings/str_cat.h"
#include "kernels/base/check.h"

namespace duo {
namespace {

// What a rank tells the others about where it runs.
struct Place {
  char host[256];
  char pid_space[192];  // two ranks see each other's process ids where this is equal: the boot and the PID namespace
  int32_t pid;
};

Place OwnPlace() {
  Place place{};
  gethostname(place.host, sizeof(place.host) - 1);
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  char space[64] = {};
  if (readlink("/proc/self/ns/pid", space, sizeof(space) - 1) < 0) space[0] = 0;
  const std::string name = absl::StrCat(boot, " ", space);
  std::strncpy(place.pid_space, name.c_str(), sizeof(place.pid_space) - 1);
  place.pid = getpid();
  return place;
}

bool Alive(int pid) { return kill(pid, 0) == 0 || errno != ESRCH; }

}  // namespace

bool MpiSession::Launched(std::initializer_list<const char*> variables) {
  return std::any_of(variables.begin(), variables.end(), [](const char* v) { return v != nullptr && *v != 0; });
}

std::unique_ptr<MpiSession> MpiSession::Start(bool watch_peers) {
  std::unique_ptr<MpiSession> session(new MpiSession);
  int provided = 0;
  DUO_CHECK_EQ(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), MPI_SUCCESS);
  DUO_CHECK_GE(provided, MPI_THREAD_SERIALIZED);
  DUO_CHECK_EQ(MPI_Comm_rank(MPI_COMM_WORLD, &session->rank_), MPI_SUCCESS);
  DUO_CHECK_EQ(MPI_Comm_size(MPI_COMM_WORLD, &session->size_), MPI_SUCCESS);
  MPI_Comm local;
  DUO_CHECK_EQ(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, session->rank_, MPI_INFO_NULL, &local),
               MPI_SUCCESS);
  DUO_CHECK_EQ(MPI_Comm_rank(local, &session->local_rank_), MPI_SUCCESS);
  DUO_CHECK_EQ(MPI_Comm_size(local, &session->local_size_), MPI_SUCCESS);
  DUO_CHECK_EQ(MPI_Comm_free(&local), MPI_SUCCESS);

  const Place mine = OwnPlace();
  std::vector<Place> places(session->size_);
  DUO_CHECK_EQ(MPI_Allgather(&mine, sizeof(mine), MPI_BYTE, places.data(), sizeof(mine), MPI_BYTE, MPI_COMM_WORLD),
               MPI_SUCCESS);
  for (int r = 0; r < session->size_; ++r) {
    const bool watched = watch_peers && r != session->rank_ && std::strcmp(places[r].pid_space, mine.pid_space) == 0;
    session->peers_.push_back({places[r].host, places[r].pid, watched && Alive(places[r].pid)});
  }
  session->OpenNotice();
  if (watch_peers && session->size_ > 1) session->watch_ = std::thread([s = session.get()] { s->Watch(); });
  return session;
}

// A page that all ranks of the machine map, nameless once they have.
void MpiSession::OpenNotice() {
  uint64_t key = std::random_device{}();
  key = key << 32 | std::random_device{}();
  DUO_CHECK_EQ(MPI_Bcast(&key, sizeof(key), MPI_BYTE, 0, MPI_COMM_WORLD), MPI_SUCCESS);
  const std::string name = absl::StrCat("/duo-", absl::Hex(key));
  const int file = shm_open(name.c_str(), O_CREAT | O_RDWR, 0600);
  if (file >= 0 && ftruncate(file, sizeof(Notice)) == 0) {
    void* page = mmap(nullptr, sizeof(Notice), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (page != MAP_FAILED) notice_ = static_cast<Notice*>(page);  // a fresh file reads as zeros
  }
  if (file >= 0) close(file);
  DUO_CHECK_EQ(MPI_Barrier(MPI_COMM_WORLD), MPI_SUCCESS);
  if (file >= 0) shm_unlink(name.c_str());  // the first of them succeeds
}

void MpiSession::Watch() {
  while (!stop_) {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    for (int r = 0; r < size_; ++r) {
      if (!peers_[r].watched || Alive(peers_[r].pid) || stop_) continue;
      if (notice_->printed.exchange(1) == 0) {
        std::fprintf(stderr, "error: rank %d (process %d on %s) has died\n", r, peers_[r].pid, peers_[r].host.c_str());
        std::fflush(stderr);
      }
      std::_Exit(1);  // the main thread may be blocked in MPI, in NCCL or in the device: nothing can be unwound
    }
  }
}

void MpiSession::Abort(std::string_view message) {
  if (notice_->printed.exchange(1) == 0) {
    std::fprintf(stderr, "error: %.*s\n", static_cast<int>(message.size()), message.data());
    std::fflush(nullptr);
  }
  MPI_Abort(MPI_COMM_WORLD, 1);
  std::_Exit(1);
}

MpiSession::~MpiSession() {
  stop_ = true;
  if (watch_.joinable()) watch_.join();
  // Every rank has stopped watching before the first may leave.
  DUO_CHECK_EQ(MPI_Barrier(MPI_COMM_WORLD), MPI_SUCCESS);
  DUO_CHECK_EQ(MPI_Finalize(), MPI_SUCCESS);
  if (notice_ != &own_notice_) munmap(notice_, sizeof(Notice));
}

}  // namespace duo
