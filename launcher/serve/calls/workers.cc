#include "launcher/serve/calls/workers.h"

#include <algorithm>
#include <utility>

namespace duo {

Workers::Workers(int threads, int limit) : most_long_(std::max(threads, 2) - 1), limit_(static_cast<size_t>(limit)) {
  for (int i = 0; i <= most_long_; ++i) threads_.emplace_back([this] { Run(); });
}

Workers::~Workers() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool Workers::Post(size_t bytes, std::function<void()> job) {
  {
    std::lock_guard lock(mutex_);
    if (short_.size() + long_.size() >= limit_) return false;
    (bytes < kLongBytes ? short_ : long_).push_back(std::move(job));
  }
  wake_.notify_one();
  return true;
}

void Workers::Run() {
  std::unique_lock lock(mutex_);
  while (true) {
    const bool may_long = !long_.empty() && running_long_ < most_long_;
    if (short_.empty() && !may_long) {
      if (stop_ && long_.empty()) return;
      wake_.wait(lock);
      continue;
    }
    const bool is_long = short_.empty();
    std::deque<std::function<void()>>& queue = is_long ? long_ : short_;
    std::function<void()> job = std::move(queue.front());
    queue.pop_front();
    running_long_ += is_long;
    lock.unlock();
    job();
    job = nullptr;  // what it holds goes before others may think it done
    lock.lock();
    running_long_ -= is_long;
    wake_.notify_all();  // a long job may have waited for this one's end
  }
}

}  // namespace duo
