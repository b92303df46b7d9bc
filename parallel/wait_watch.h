// WaitWatch: a thread that looks whether what waits for a peer may wait for ever. Work on a GPU's stream that waits for
// a peer tells nobody, so somebody asks those who know: NCCL, and the memory that the peers write to. What is found
// ends the job with a sentence.
//
// The clock, NCCL and the end are handed in, so that all of this runs where there is no GPU.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "kernels/base/dtype.h"

namespace duo {

// What NCCL has met beside the calls on the communicator: its own words, empty while there is nothing. `Nccl` stands
// for the library: Code, kSuccess, kInProgress, Code AsyncError(Code* told), std::string Text(Code).
template <typename Nccl>
std::string AsyncTrouble(Nccl& nccl) {
  auto told = Nccl::kSuccess;
  const auto asked = nccl.AsyncError(&told);
  const auto code = asked != Nccl::kSuccess ? asked : told;
  return code == Nccl::kSuccess || code == Nccl::kInProgress ? std::string() : nccl.Text(code);
}

constexpr int64_t kPeerSilenceSeconds = 300;  // no peer is so long about a layer, or about planning a first step

// A wait for a message in memory that tells nobody when it comes. Its limit counts from the first look at the clock.
class PeerSilence {
 public:
  // now: of a clock of nanoseconds that is never at 0.
  DUO_HD bool TooLong(uint64_t now) {
    if (begun_ == 0) begun_ = now;
    return now - begun_ > static_cast<uint64_t>(kPeerSilenceSeconds) * 1000000000u;
  }

 private:
  uint64_t begun_ = 0;
};

class WaitWatch {
 public:
  struct Asked {
    std::function<std::string()> nccl;  // as AsyncTrouble
    std::function<int()> silent_peer;   // a rank that was waited for too long; -1: none
  };
  // `end` is called at most once, on the watching thread, with a sentence that begins with this rank; then nobody looks
  // any more.
  WaitWatch(int rank, Asked asked, std::function<void(const std::string&)> end,
            std::chrono::milliseconds every = std::chrono::seconds(1));
  ~WaitWatch();  // no look is under way when it returns, nor does it wait for the next one
  WaitWatch(const WaitWatch&) = delete;
  WaitWatch& operator=(const WaitWatch&) = delete;

 private:
  std::string Look() const;  // empty: nothing is wrong
  void Loop();

  const int rank_;
  const Asked asked_;
  const std::function<void(const std::string&)> end_;
  const std::chrono::milliseconds every_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stop_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace duo
