// Wall time as people read it: seconds between two moments of the clock that never goes back. Pure, thread-safe.
#pragma once

#include <chrono>

namespace duo {

using Clock = std::chrono::steady_clock;

inline double SecondsBetween(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}
inline double SecondsSince(Clock::time_point from) { return SecondsBetween(from, Clock::now()); }

}  // namespace duo
