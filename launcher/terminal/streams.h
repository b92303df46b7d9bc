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

// Of a rank, before something is said on stderr about what was printed: flushes stdout and gives mpirun time to take
// it. It copies a rank's two streams one independently of the other, and where they go to one place, what is written
// last can be first. Nothing tells whether it has taken a text (stdout is a terminal of its own), so this is a tenth of
// a second.
void LetOutputPass();

}  // namespace duo
