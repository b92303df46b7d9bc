// What all ranks of a run must have in common before any of them does something that the others wait for. A rank that
// was started with other flags, another build or another model would hang the job, or answer wrongly; it is found here,
// and all ranks end with one sentence that names it.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "parallel/communicator.h"

namespace duo {

// A name for people ("--kv") and the value that a rank has for it.
using Fact = std::pair<std::string, std::string>;

// Collective: every rank gives the same names in the same order. OK where all values are equal; otherwise, on every
// rank alike, FAILED_PRECONDITION about the first rank that differs from rank 0: which fact, and both values.
absl::Status AgreeOnFacts(Communicator& comm, const std::vector<Fact>& facts);

// Which build this program is: the linker's build id in hexadecimal, "unknown" where the linker wrote none.
std::string BuildId();

}  // namespace duo
