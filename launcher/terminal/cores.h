// How many cores this process may use: in a container or under a batch system fewer than the machine has.
// Reads files; thread-safe.
#pragma once

#include <string>

namespace duo {

// Those that the kernel lets this process run on (its affinity).
int BoundCores();

// The least of `cores` and of the CPU quota of every control group of this process (cgroup versions 1 and 2), rounded
// up; at least 1. root: where /proc and /sys are looked for: "" for this machine, a folder for tests.
int CoresWithinQuota(int cores, const std::string& root = "");

}  // namespace duo
