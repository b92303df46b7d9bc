// Activity: what operators look at besides counts: the long calls that wait or run now, the last refusals with their
// sentences, and how long the last answers took to begin and to go on. Bounded; thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace duo {

struct CallNow {
  uint64_t number = 0;                 // by which it can be told from others
  std::string method, session, owner;  // session empty: the prompt belongs to none
  double age_seconds = 0;
};

struct RefusedCall {
  uint64_t number = 0;
  std::string method, code, message, owner;  // owner empty: nobody knows who it was
  double age_seconds = 0;
};

struct AnswerTimes {
  double first_token = 0, token = 0;  // seconds; token: the mean gap between two, 0 where there was one only
};

class Activity {
 public:
  using Clock = std::chrono::steady_clock;

  // A call that may take long. The number ends it.
  uint64_t Begin(std::string method, std::string session, std::string owner) {
    std::lock_guard lock(mutex_);
    CallNow call{++last_, std::move(method), std::move(session), std::move(owner)};
    now_.emplace(last_, Entry<CallNow>{std::move(call), Clock::now()});
    return last_;
  }
  void End(uint64_t call) {
    std::lock_guard lock(mutex_);
    now_.erase(call);
  }
  void Refused(RefusedCall call) {
    std::lock_guard lock(mutex_);
    call.number = ++last_;
    refused_.push_front({std::move(call), Clock::now()});
    if (refused_.size() > kRefusals) refused_.pop_back();
  }
  void Answered(AnswerTimes times) {
    std::lock_guard lock(mutex_);
    answered_.push_back(times);
    if (answered_.size() > kAnswers) answered_.pop_front();
  }

  // An answer named its sources: each provenance head's share of attention on its session's text, as RowMass has it.
  void Looked(std::vector<float> heads) {
    std::lock_guard lock(mutex_);
    looked_.push_back(std::move(heads));
    if (looked_.size() > kAnswers) looked_.pop_front();
  }

  std::vector<CallNow> calls() const {  // the oldest first
    std::lock_guard lock(mutex_);
    std::vector<CallNow> list;
    for (const auto& [number, entry] : now_) list.push_back(Aged(entry));
    return list;
  }
  std::vector<RefusedCall> refused() const {  // the newest first
    std::lock_guard lock(mutex_);
    std::vector<RefusedCall> list;
    for (const auto& entry : refused_) list.push_back(Aged(entry));
    return list;
  }
  std::vector<AnswerTimes> answered() const {  // the oldest first
    std::lock_guard lock(mutex_);
    return {answered_.begin(), answered_.end()};
  }

  std::vector<std::vector<float>> looked() const {  // likewise
    std::lock_guard lock(mutex_);
    return {looked_.begin(), looked_.end()};
  }

 private:
  static constexpr size_t kRefusals = 50, kAnswers = 120;
  template <typename What>
  struct Entry {
    What what;
    Clock::time_point at;
  };
  template <typename What>
  static What Aged(const Entry<What>& entry) {
    What what = entry.what;
    what.age_seconds = std::chrono::duration<double>(Clock::now() - entry.at).count();
    return what;
  }

  mutable std::mutex mutex_;  // guards what follows
  uint64_t last_ = 0;
  std::map<uint64_t, Entry<CallNow>> now_;
  std::deque<Entry<RefusedCall>> refused_;
  std::deque<AnswerTimes> answered_;
  std::deque<std::vector<float>> looked_;
};

}  // namespace duo
