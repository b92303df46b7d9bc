// EngineThread: the one thread that drives an Engine. RPC threads post closures; between closures it runs the engine's
// steps and whatever else has work (saving, moving idle sessions out). It sleeps when there is nothing to do.
//
// Borrows everything it is given until Stop or destruction. Post and Urgent may be called from any thread; closures run
// one after the other, in order, on the engine's thread.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace duo {

class EngineThread {
 public:
  struct Work {
    std::function<bool()> step;  // runs one step; false: nothing to do
    std::function<void()> tick;  // called between steps and at least ten times a second
  };

  // `limit`: closures that may wait.
  EngineThread(Work work, int limit);
  ~EngineThread();

  // Begins to run closures, those that were posted before it included. Once.
  void Start();
  // False, and the closure is dropped, when `limit` closures wait or the thread has stopped.
  bool Post(std::function<void()> closure);
  // For what must not be refused: cancellations, shutdown. False only when the thread has stopped.
  bool Urgent(std::function<void()> closure);
  // Runs what is queued, then ends the thread. Not from the thread itself.
  void Stop();

 private:
  bool Enqueue(std::function<void()> closure, size_t limit);
  void Run();

  Work work_;
  size_t limit_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> queue_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace duo
