#include "kernels/base/thread_pool.h"

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/base/check.h"

namespace duo {

struct ThreadPool::State {
  std::mutex mutex;
  std::condition_variable start, done;
  const std::function<void(int64_t, int)>* body = nullptr;
  int64_t items = 0;
  std::atomic<int64_t> next{0};
  std::atomic<uint64_t> round{0};  // a new value starts a loop
  int running = 0;
  bool stop = false;
  std::vector<std::thread> threads;

  void Work(int thread) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < items;) (*body)(i, thread);
  }

  void Loop(int thread) {
    uint64_t seen = 0;
    while (true) {
      // Loops follow each other within microseconds inside a layer: look a few times before sleeping.
      for (int spin = 0; spin < 200 && round.load(std::memory_order_acquire) == seen; ++spin) std::this_thread::yield();
      {
        std::unique_lock<std::mutex> lock(mutex);
        start.wait(lock, [&] { return stop || round.load(std::memory_order_relaxed) != seen; });
        if (stop) return;
        seen = round.load(std::memory_order_relaxed);
      }
      Work(thread);
      std::lock_guard<std::mutex> lock(mutex);
      if (--running == 0) done.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>()) {
  DUO_CHECK_GE(threads, 1);
  for (int t = 1; t < threads; ++t) state_->threads.emplace_back([state = state_.get(), t] { state->Loop(t); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->stop = true;
  }
  state_->start.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
}

int ThreadPool::threads() const { return static_cast<int>(state_->threads.size()) + 1; }

void ThreadPool::ParallelFor(int64_t items, const std::function<void(int64_t, int)>& body) {
  State& s = *state_;
  if (items <= 0) return;
  if (items == 1 || s.threads.empty()) {
    for (int64_t i = 0; i < items; ++i) body(i, 0);
    return;
  }
  {
    std::lock_guard<std::mutex> lock(s.mutex);
    s.body = &body;
    s.items = items;
    s.next.store(0, std::memory_order_relaxed);
    s.running = static_cast<int>(s.threads.size());
    s.round.fetch_add(1, std::memory_order_release);
  }
  s.start.notify_all();
  s.Work(0);
  std::unique_lock<std::mutex> lock(s.mutex);
  s.done.wait(lock, [&] { return s.running == 0; });
}

}  // namespace duo
