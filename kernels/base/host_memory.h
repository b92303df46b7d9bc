// HostMemory: how much of this machine's memory a process may still take. In a container the kernel's "available" is
// that of the whole machine, and whoever believes it is killed when the container's limit is reached; so the limits of
// the process's control groups (cgroup versions 1 and 2), and of every group above them, count too.
// Reads files; thread-safe.
#pragma once

#include <cstdint>
#include <string>

namespace duo {

// Bytes: the least of what the kernel calls available (free memory, and caches that it would give up) and of what every
// control group of this process leaves (its limit, less what its processes hold, not counting file caches that the
// kernel can drop). `root` is where /proc and /sys are looked for: "" for this machine, a folder for tests.
int64_t AvailableHostMemory(const std::string& root = "");

}  // namespace duo
