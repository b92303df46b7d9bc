#include "launcher/serve/sessions/engine_thread.h"

#include <chrono>
#include <limits>

namespace duo {

EngineThread::EngineThread(Work work, int limit) : work_(std::move(work)), limit_(static_cast<size_t>(limit)) {}

EngineThread::~EngineThread() { Stop(); }

void EngineThread::Start() {
  thread_ = std::thread([this] { Run(); });
}

bool EngineThread::Enqueue(std::function<void()> closure, size_t limit) {
  std::lock_guard lock(mutex_);
  if (stop_ || queue_.size() >= limit) return false;
  queue_.push_back(std::move(closure));
  wake_.notify_one();  // under the lock: a drain is the last thing posted, and who waits for its end destroys this
  return true;
}

bool EngineThread::Post(std::function<void()> closure) { return Enqueue(std::move(closure), limit_); }

bool EngineThread::Urgent(std::function<void()> closure) {
  return Enqueue(std::move(closure), std::numeric_limits<size_t>::max());
}

void EngineThread::Stop() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void EngineThread::Run() {
  bool idle = false;
  while (true) {
    std::deque<std::function<void()>> batch;
    {
      std::unique_lock lock(mutex_);
      if (idle) wake_.wait_for(lock, std::chrono::milliseconds(100), [this] { return stop_ || !queue_.empty(); });
      batch.swap(queue_);
      if (batch.empty() && stop_) return;
    }
    for (auto& closure : batch) closure();
    work_.tick();
    idle = !work_.step();
  }
}

}  // namespace duo
