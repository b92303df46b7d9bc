// Interrupt: Ctrl-C as a function call, so that a call can be cancelled and its user told how to go on. While nobody
// wants to be told, Ctrl-C ends the process as ever.
//
// Blocks SIGINT on the thread that makes it and on those made from there: it comes before gRPC's threads. Owns a thread
// that waits for the signal. Used by one thread.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <thread>

namespace duo {

class Interrupt {
 public:
  Interrupt();
  ~Interrupt();

  // `tell` is called at each Ctrl-C from now on, on the thread of this object; null: nobody is told. What was told
  // before is not called any more when it returns.
  void Tell(std::function<void()> tell);
  // Sleeps; true, and at once, when Ctrl-C came meanwhile.
  bool Sleep(double seconds);

 private:
  void Run();

  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::function<void()> tell_;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace duo
