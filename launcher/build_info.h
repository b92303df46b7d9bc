// What this program was built of. Constant; any thread.
#pragma once

#include <string>

namespace duo {

struct BuildInfo {
  const char* version;
  const char* commit;   // of the repository, with -dirty behind it where files were changed; empty: it was in none
  const char* options;  // "Release, for CPUs and CUDA (80-real;90a-real), GNU 12.2.0"
};
BuildInfo ThisBuild();

// A line each, for `duo --version`.
std::string Describe(const BuildInfo& build);

}  // namespace duo
