// RouteTape: which experts the rows of a mixture chose, layer by layer, and what their routers saw. For benchmarks: how
// many experts a step reads; and two ways through the kernels compared with the same experts.
//
// Random weights make routers of which many choices are near ties: 16-bit errors send a row to another expert, whose
// output has nothing to do with the first's, so that results of two ways which are both right lie far apart. Replaying
// a tape gives the rows of the second way the experts of the first, weighted by their own logits; the routers' logits
// are then compared in every layer, which bounds what a choice could have differed by.
//
// It waits for the device in every layer: no step may be recorded meanwhile. Rows of a second run come in the order of
// the first, in pieces of any length. Not thread-safe; the worker's thread.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/base/view.h"
#include "kernels/experts.h"
#include "runtime/weights/config.h"

namespace duo {

struct RouteReport {
  // While recorded: of each layer's rows in each step.
  int64_t layers = 0;        // layers that were seen, once a step
  double distinct = 0;       // experts that some row of a step chose, mean over those
  int64_t fewest = 0;        // of them
  int64_t wrong_places = 0;  // places of rows whose expert is not the one that the logits put there
  // While replayed.
  double logit_error = 0;  // of the routers' logits against the recorded run's, relative L2
  int64_t changed = 0;     // rows, layer by layer, that would have had other experts
  bool complete = false;   // the rows were as many as those of the recorded run
};

class RouteTape {
 public:
  // After a layer's rows were routed. logits [rows, >= experts] f32.
  void Seen(Device& device, int layer, const View& logits, const Routing& routing, const ExpertsConfig& experts);
  // From now on what was recorded is replayed.
  void Replay();
  RouteReport Report() const;

 private:
  struct Layer {
    std::vector<float> logits;     // [rows][experts]
    std::vector<int32_t> experts;  // [rows][chosen]
    int64_t rows = 0, replayed = 0;
  };
  void Record(Layer& layer, const std::vector<float>& logits, const std::vector<int32_t>& chosen,
              const ExpertsConfig& experts);

  std::vector<Layer> layers_;
  bool replays_ = false, fits_ = true;
  int64_t seen_ = 0, distinct_ = 0, fewest_ = 0, wrong_places_ = 0, changed_ = 0;
  double difference_ = 0, norm_ = 0;
};

}  // namespace duo
