#include "kernels/base/bound_pool.h"

#include <barrier>

namespace duo {

void OnEveryThread(ThreadPool& pool, const std::function<void(int thread)>& work) {
  std::barrier all(pool.threads());  // who has an item waits here until the last thread has one
  pool.ParallelFor(pool.threads(), [&](int64_t, int thread) {
    all.arrive_and_wait();
    work(thread);
  });
}

void BindThreads(ThreadPool& pool, const Device& device) {
  OnEveryThread(pool, [&device](int) { device.BindThread(); });
}

}  // namespace duo
