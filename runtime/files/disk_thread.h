// DiskThread: a thread for what waits for a disk, so that nobody else does. Work runs one after the other, in the order
// in which it was given; what is to follow it runs on the owner's thread, when the owner asks what is due.
//
// Any thread may give work; Deliver is the owner's alone. Work that is still there at the end is done, what would
// follow it is not.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace duo {

class DiskThread {
 public:
  // Not `threaded`: there is no thread, and work is done by whoever gives it, at once.
  explicit DiskThread(bool threaded);
  ~DiskThread();

  void Run(std::function<void()> work, std::function<void()> done = {});
  // Calls the `done`s of finished work. True: there were some.
  bool Deliver();
  bool threaded() const { return threaded_; }
  bool idle() const;  // no work is left; `done`s may be
  bool due() const;   // `done`s are left
  void Wait();        // until idle
  // Called after every piece of work, on the thread that did it. Empty: nobody, from when it returns.
  void Tell(std::function<void()> tell);

 private:
  struct Item {
    std::function<void()> work, done;
  };
  void Finish(Item item);
  void Loop();

  const bool threaded_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable wake_, idle_;
  std::deque<Item> items_;
  std::deque<std::function<void()>> done_;
  bool working_ = false, stop_ = false;
  std::mutex tell_mutex_;
  std::function<void()> tell_;  // guarded by tell_mutex_
  std::thread thread_;
};

}  // namespace duo
