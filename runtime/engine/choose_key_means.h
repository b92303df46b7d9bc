// What keys are kept without (runtime/model/key_shift.h), where that is asked for. One thread a rank.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "runtime/engine/engine.h"
#include "runtime/weights/config.h"

namespace duo {

struct ChosenKeyShift {
  std::vector<float> shift;  // [layers][kv_heads][head_dim]
  std::string fingerprint;   // what saved sessions say of it
  std::string file;          // where the means are from
};

// As options say, of sessions of at most max_tokens.
absl::StatusOr<ChosenKeyShift> ChooseKeyShift(const EngineOptions& options, const ModelConfig& config,
                                              int64_t max_tokens);

// Rank 0's for all, to the bit: only rank 0 needs the file, and the pieces of a split head shift alike.
void ShareKeyShift(Communicator& comm, ChosenKeyShift* chosen);

}  // namespace duo
