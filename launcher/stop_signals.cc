#include "launcher/stop_signals.h"

#include <signal.h>

#include <cstdio>
#include <cstdlib>

namespace duo {
namespace {

sigset_t Signals() {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : {SIGTERM, SIGINT, SIGUSR1, SIGHUP}) sigaddset(&set, signal);
  return set;
}

}  // namespace

void StopSignals::Block() {
  const sigset_t set = Signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

StopSignals::~StopSignals() {
  stop_ = true;
  thread_.join();
}

void StopSignals::DrainsFromNowOn(Server* server) {
  std::lock_guard lock(mutex_);
  server_ = server;
  if (reload_) server_->Reload();
}

void StopSignals::NothingFromNowOn() {
  std::lock_guard lock(mutex_);
  server_ = nullptr;
  drained_ = true;
}

void StopSignals::Run() {
  const sigset_t set = Signals();
  const timespec wait = {0, 100'000'000};
  while (!stop_) {
    const int signal = sigtimedwait(&set, nullptr, &wait);
    if (signal < 0) continue;
    std::lock_guard lock(mutex_);
    if (signal == SIGHUP) {
      reload_ = server_ == nullptr;  // what it reads before it is ready may be older
      if (server_ != nullptr) server_->Reload();
    } else if (server_ != nullptr) {
      server_->Drain(stops_++ > 0);
    } else if (!drained_) {
      std::fprintf(stderr, "error: stopped by a signal before the server was ready\n");
      std::_Exit(1);
    }
  }
}

}  // namespace duo
