#include "runtime/files/disk_thread.h"

#include <utility>

namespace duo {

DiskThread::DiskThread(bool threaded) : threaded_(threaded) {
  if (threaded) thread_ = std::thread([this] { Loop(); });
}

DiskThread::~DiskThread() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void DiskThread::Run(std::function<void()> work, std::function<void()> done) {
  Item item{std::move(work), std::move(done)};
  if (!threaded_) {
    item.work();
    return Finish(std::move(item));
  }
  std::lock_guard lock(mutex_);
  items_.push_back(std::move(item));
  wake_.notify_one();
}

void DiskThread::Finish(Item item) {
  item.work = nullptr;  // what it holds goes before anyone hears that it is done
  {
    std::lock_guard lock(mutex_);
    if (item.done) done_.push_back(std::move(item.done));
    working_ = false;
    if (items_.empty()) idle_.notify_all();
  }
  std::lock_guard lock(tell_mutex_);
  if (tell_) tell_();
}

void DiskThread::Loop() {
  while (true) {
    Item item;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || !items_.empty(); });
      if (items_.empty()) return;
      item = std::move(items_.front());
      items_.pop_front();
      working_ = true;
    }
    item.work();
    Finish(std::move(item));
  }
}

bool DiskThread::Deliver() {
  std::deque<std::function<void()>> due;
  {
    std::lock_guard lock(mutex_);
    due.swap(done_);
  }
  for (const auto& done : due) done();
  return !due.empty();
}

bool DiskThread::idle() const {
  std::lock_guard lock(mutex_);
  return items_.empty() && !working_;
}

bool DiskThread::due() const {
  std::lock_guard lock(mutex_);
  return !done_.empty();
}

void DiskThread::Wait() {
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return items_.empty() && !working_; });
}

void DiskThread::Tell(std::function<void()> tell) {
  std::lock_guard lock(tell_mutex_);
  tell_ = std::move(tell);
}

}  // namespace duo
