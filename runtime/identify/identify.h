// Identification: gates of a frozen model, trained until only the heads that long-range recall needs keep full
// attention (arXiv 2410.10819 section 2.3). Per step: one or more samples of passkey_data.h, loss and gradient of
// identify_model.h, plus reg * mean |gate|, one step of gate_optimizer.h.
//
// Data parallel: sample k of a step belongs to rank k mod ranks; the ranks exchange gradients, a few hundred numbers,
// and add them in the order of the samples, so that the result does not depend on how many ranks there were.
// A run's state is one small JSON file, written by rank 0 every kSaveSteps steps; samples follow from the seed and
// their number, so a resumed run gives the gates of an uninterrupted one, bit by bit on the CPU.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "parallel/communicator.h"
#include "runtime/identify/gate_optimizer.h"
#include "runtime/identify/identify_model.h"
#include "runtime/identify/passkey_data.h"

namespace duo {

struct IdentifyOptions {
  int steps = 2000;
  int samples = 1;                                // a step, over all ranks
  double rate = 0.02;                             // AdamW's learning rate at its height
  double reg = 0.05;                              // weight of mean |gate|
  int64_t min_length = 1000, max_length = 32000;  // tokens of a document
  uint64_t seed = 0;
  std::string state_file;   // empty: nothing is saved or resumed
  std::string fingerprint;  // of the model and the data: a state with another is not resumed
};

constexpr int kSaveSteps = 50;

struct IdentifyProgress {
  int step = 0;             // done
  double distillation = 0;  // of this step
  double mean_gate = 0;
  int64_t tokens = 0;  // of this rank's samples
};

// What is left after the last step.
struct Identified {
  std::vector<double> gates;         // [layers][kv_heads]
  std::vector<double> distillation;  // [steps]
  double seconds = 0;                // over all runs that made it
};

// Collective. on_step is called on every rank; where it returns false the run ends early, with CANCELLED, after saving
// its state.
absl::StatusOr<Identified> IdentifyGates(IdentifyModel& model, const PasskeyData& data, const IdentifyOptions& options,
                                         Communicator& comm,
                                         const std::function<bool(const IdentifyProgress&)>& on_step);

}  // namespace duo
