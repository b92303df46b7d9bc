#include "launcher/client/interrupt.h"

#include <signal.h>

#include <chrono>
#include <cstdlib>
#include <future>
#include <utility>

namespace duo {
namespace {

sigset_t Signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

Interrupt::Interrupt() {
  const sigset_t set = Signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::thread([this] { Run(); });
}

Interrupt::~Interrupt() {
  stop_ = true;
  thread_.join();
}

void Interrupt::Tell(std::function<void()> tell) {
  std::lock_guard lock(mutex_);
  tell_ = std::move(tell);
}

bool Interrupt::Sleep(double seconds) {
  std::promise<void> seen;
  bool told = false;
  Tell([&] {
    if (!std::exchange(told, true)) seen.set_value();
  });
  const bool came = seen.get_future().wait_for(std::chrono::duration<double>(seconds)) == std::future_status::ready;
  Tell(nullptr);
  return came;
}

void Interrupt::Run() {
  const sigset_t set = Signals();
  const timespec wait = {0, 50'000'000};
  while (!stop_) {
    if (sigtimedwait(&set, nullptr, &wait) < 0) continue;
    std::lock_guard lock(mutex_);
    if (!tell_) std::_Exit(128 + SIGINT);
    tell_();
  }
}

}  // namespace duo
