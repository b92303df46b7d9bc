// MpiSession: MPI from start to end, as an owned object. A session is made in a process that mpirun (or Slurm's srun)
// started, and in no other; main looks at the environment and decides, so that a plain single process never touches
// MPI.
//
// A session also watches the peers on the same machine: when a peer is gone without having said why, some survivor
// prints one line naming that peer and all survivors exit with 1, whatever they are blocked in. (mpirun ends the ranks
// of other machines, and prints a notice of its own, which names the rank too.)
//
// Owner: main. Outlives every Communicator made from it. Constructed and destroyed on one thread; MPI calls are
// serialised by the caller. Destroying it is collective.
#pragma once

#include <atomic>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace duo {

class MpiSession {
 public:
  // Was this process started as a rank? `variables`: OMPI_COMM_WORLD_SIZE (mpirun), PMIX_RANK and PMI_RANK (srun) of
  // the environment, as main reads them; null where unset.
  static bool Launched(std::initializer_list<const char*> variables);
  // watch_peers: false where the death of a peer shall go unnoticed until a Wait times out (tests of just that).
  static std::unique_ptr<MpiSession> Start(bool watch_peers = true);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  int local_rank() const { return local_rank_; }  // among the ranks of this host
  int local_size() const { return local_size_; }
  const std::string& host(int rank) const { return peers_[rank].host; }
  bool watches(int rank) const { return peers_[rank].watched; }

  // Prints "error: MESSAGE" unless a rank of this machine has printed an error before, and ends all ranks with exit
  // code 1. Any thread.
  [[noreturn]] void Abort(std::string_view message);

 private:
  struct Peer {
    std::string host;
    int pid = 0;
    bool watched = false;  // its process can be seen from here
  };
  // Shared by the ranks of one machine: whether one of them has printed the job's error line.
  struct Notice {
    std::atomic<int> printed;
  };
  MpiSession() = default;
  void OpenNotice();
  void Watch();

  int rank_ = 0, size_ = 1, local_rank_ = 0, local_size_ = 1;
  std::vector<Peer> peers_;  // [size]
  Notice own_notice_{};      // where the machine has no shared memory
  Notice* notice_ = &own_notice_;
  std::atomic<bool> stop_{false};
  std::thread watch_;
};

}  // namespace duo
