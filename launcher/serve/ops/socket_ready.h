// Waiting for a socket, up to a point in time. Any thread.
#pragma once

#include "kernels/base/seconds.h"

namespace duo {

// Waits until `fd` is ready for `events` (poll's: POLLIN, POLLOUT). False: it is not by the deadline, or cannot be
// asked.
bool SocketReady(int fd, short events, Clock::time_point deadline);

}  // namespace duo
