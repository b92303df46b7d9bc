// RowChoice: whether ranks should share out long prompts by rows, from measured links (peer_weights.cc), and how that
// is told. Plain values; thread-safe.
#pragma once

#include <string>

namespace duo {

struct RowChoice {
  // Seconds of a token: messages each way, and what both ways share. A guess where it says so, but of one machine
  // alike.
  double by_heads = 0, by_rows = 0, work = 0;
  double sum_rate = 0, block_rate = 0;  // bytes a second that were measured
  bool on_cores = false;  // all ranks are on one host's processor: messages wait for cores, not for a network

  // The share of a read's time that rows save; below 0 they cost some.
  double gain() const { return (by_heads - by_rows) / (work + by_heads); }
};

// One sentence: what was taken, what the other way would have brought, and from what numbers. gain: that counted, rank
// 0's. room: for the longest session by rows.
std::string Describe(const RowChoice& choice, double gain, bool room);

}  // namespace duo
