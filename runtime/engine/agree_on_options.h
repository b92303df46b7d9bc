// What all ranks of an engine must have alike before it is made: options, and the files that each reads for itself.
// Every rank calls; all get the same status.
#pragma once

#include "absl/status/status.h"
#include "runtime/engine/probe.h"
#include "runtime/weights/safetensors.h"

namespace duo {

absl::Status AgreeOnOptions(Communicator& comm, const EngineOptions& options);
// Ranks may read folders of their own: the same model must be in them.
absl::Status AgreeOnConfig(Communicator& comm, const ProbeOptions& options);
absl::Status AgreeOnWeights(Communicator& comm, const std::string& model_dir, const SafetensorsModel& files);

}  // namespace duo
