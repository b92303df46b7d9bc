#include "launcher/serve/calls/sender.h"

#include <utility>

namespace duo {

Sender::Sender() : thread_([this] { Run(); }) {}

Sender::~Sender() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

void Sender::Post(std::function<void()> send) {
  bool first;
  {
    std::lock_guard lock(mutex_);
    first = queue_.empty();
    queue_.push_back(std::move(send));
  }
  if (first) wake_.notify_one();
}

void Sender::Run() {
  std::vector<std::function<void()>> due;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      due.swap(queue_);
    }
    if (due.empty()) return;
    for (auto& send : due) send();
    due.clear();
  }
}

}  // namespace duo
