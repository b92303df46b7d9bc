// TimeLeft: how long work will still take whose parts take longer the more is done, as tokens do behind more history.
//
// Why: with full attention the second half of a document takes most of the time, and a mean rate promises half of it.
// The time of n parts is taken as a n + b n^2, neither below 0, through now and through the moment when half as much
// was done; so it is right for even work, too. Plain value; not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

namespace duo {

class TimeLeft {
 public:
  // After `seconds` so many are done: more each time, else it is not looked at.
  void Seen(int64_t done, double seconds);
  // Seconds from the last moment seen until `total` are done; below 0: not known yet.
  double Until(int64_t total) const;

 private:
  struct Mark {
    double done, seconds;
  };
  std::vector<Mark> marks_;  // of growing done; thinned out
};

}  // namespace duo
