// Sender: a thread that sends what the engine's thread has to say. A message takes a transport some 15 microseconds,
// and a step may have one for each of 256 answers: meanwhile the next step would wait. Thread-safe.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace duo {

class Sender {
 public:
  Sender();
  ~Sender();  // what was posted is done first

  void Post(std::function<void()> send);

 private:
  void Run();

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  std::vector<std::function<void()>> queue_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace duo
