// Workers: where bodies are parsed, rendered and made tokens, so that the I/O thread does not stop for them. Two
// threads: a large body does not hold up small ones. Closures run in order within their size.
//
// Owns its threads from construction to Stop; Post from any thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace duo::http {

class Workers {
 public:
  Workers() : small_([this] { Run(small_work_); }), large_([this] { Run(large_work_); }) {}
  ~Workers() { Stop(); }

  // bytes: of the body that it works on.
  void Post(size_t bytes, std::function<void()> work) {
    std::lock_guard lock(mutex_);
    (bytes <= kSmall ? small_work_ : large_work_).push_back(std::move(work));
    wake_.notify_all();
  }
  // Runs what was posted, then ends the threads.
  void Stop() {
    {
      std::lock_guard lock(mutex_);
      stop_ = true;
      wake_.notify_all();
    }
    if (small_.joinable()) small_.join();
    if (large_.joinable()) large_.join();
  }

 private:
  static constexpr size_t kSmall = 64 << 10;
  using Work = std::deque<std::function<void()>>;

  void Run(Work& work) {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return stop_ || !work.empty(); });
      if (work.empty()) return;
      const std::function<void()> next = std::move(work.front());
      work.pop_front();
      lock.unlock();
      next();
      lock.lock();
    }
  }

  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_;
  Work small_work_, large_work_;
  bool stop_ = false;
  std::thread small_, large_;  // last: they use what is above
};

}  // namespace duo::http
