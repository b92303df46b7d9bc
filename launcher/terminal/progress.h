// Progress on stderr for whatever takes longer than two seconds: a bar with rate and time left on a terminal, a plain
// line every few seconds elsewhere. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "kernels/base/seconds.h"
#include "launcher/terminal/time_left.h"

namespace duo {

class Progress {
 public:
  // unit: what is counted, "tokens" or "B"; bytes are shown as MB. quiet: prints nothing (ranks other than 0).
  Progress(std::string what, std::string unit, bool quiet);
  ~Progress();  // wipes the bar

  void Update(int64_t done, int64_t total);
  void Note(std::string note) { note_ = std::move(note); }  // shown at the end of the line from the next update on
  void Done();                                              // wipes the bar; later updates are ignored

 private:
  std::string what_, unit_, note_;
  bool quiet_, terminal_, drawn_ = false, finished_ = false;
  Clock::time_point start_, last_;
  TimeLeft left_;
};

// "1,234,567"
std::string Grouped(int64_t n);
// "1.50 s", "3 min 20 s", "2 h 5 min"
std::string Duration(double seconds);
// "1.5 GB", "35.2 MB"
std::string ByteCount(double bytes);
// Of an answer with drafts, behind what else is said of it: ", 3.40 tokens a step (408 of 502 drafts were right)".
// Empty where there were none.
std::string DraftsText(int64_t draw_steps, int64_t drafted, int64_t accepted);

}  // namespace duo
