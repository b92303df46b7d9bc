// Workers: threads for what takes a call long before the engine has anything to do with it: making tokens of its text.
// A transport's threads and the engine's stay free meanwhile.
//
// Long jobs never take all threads, so that a short text does not wait for a book. Threads: any may post; jobs run on
// the workers', in the order of their kind. Owns its threads; destruction runs what waits and ends them.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace duo {

class Workers {
 public:
  static constexpr size_t kLongBytes = size_t{1} << 18;  // a text of so many bytes is a long job

  // threads: at least 2. limit: jobs that may wait.
  Workers(int threads, int limit);
  ~Workers();

  // bytes: how much text it works on. False, and the job is dropped, when `limit` jobs wait.
  bool Post(size_t bytes, std::function<void()> job);

 private:
  void Run();

  const int most_long_;
  const size_t limit_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> short_, long_;  // guarded by mutex_, as is what follows
  int running_long_ = 0;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace duo
