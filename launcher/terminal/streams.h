// The three standard streams at a program's start and end: that they are open, and that what was printed got out.
// One thread.
#pragma once

#include "absl/status/status.h"

namespace duo {

// A stream that the caller has closed gets a file of its own, so that no file opened later takes its number; what is
// printed to a closed stdout counts as not written.
void OpenClosedStreams();

// Whether all that was printed to stdout got out. A reader that ended early is no error.
absl::Status FlushOutput();

}  // namespace duo
