// ThreadPool: a fixed set of threads that run one parallel loop at a time. The CPU backend has no other
// source of parallelism: the GEMM library is called single-threaded from inside the pool's loops, so cores are never
// oversubscribed.
// ParallelFor may be called from one thread at a time; the caller takes part in the work.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace duo {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);  // threads >= 1, the caller included
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  // Runs body(item, thread) for every item in [0, items), 0 <= thread < threads(). Items are handed out dynamically.
  void ParallelFor(int64_t items, const std::function<void(int64_t item, int thread)>& body);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace duo
