// StopSignals: takes TERM, INT, USR1 (which mpirun passes on at once) and HUP, which every other thread blocks. HUP
// reads tokens and certificates again. The others drain the server, from the second on whether all can be saved or not;
// while there is none yet they end the process; when it has drained they do nothing, for the process is ending.
//
// Owns a thread. Any thread calls it.
#pragma once

#include <atomic>
#include <mutex>
#include <thread>

#include "launcher/serve/server.h"

namespace duo {

class StopSignals {
 public:
  // Before any other thread is made: they inherit the mask.
  static void Block();
  StopSignals() : thread_([this] { Run(); }) {}
  ~StopSignals();
  void DrainsFromNowOn(Server* server);
  // The server may be destroyed when it returns.
  void NothingFromNowOn();

 private:
  void Run();

  std::atomic<bool> stop_{false};
  std::mutex mutex_;  // guards what follows
  Server* server_ = nullptr;
  bool drained_ = false, reload_ = false;
  int stops_ = 0;
  std::thread thread_;
};

}  // namespace duo
