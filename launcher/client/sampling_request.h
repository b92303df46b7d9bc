// How an answer is to be drawn and what it may be, from the command line into a request.
#pragma once

#include "absl/status/status.h"
#include "duo/v1/duo.pb.h"
#include "launcher/terminal/sampling_flags.h"

namespace duo {

// Sets only what the flags set. An error: a flag that means nothing, or a file that cannot be read.
absl::Status SetSampling(const SamplingFlags& flags, duo::v1::AskRequest* request);

}  // namespace duo
