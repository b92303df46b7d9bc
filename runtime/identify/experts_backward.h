// The gradient of a layer's mixture of experts with respect to its input, for the training of gates: through the
// experts that were chosen, through the router's weights of them, and through the expert for all tokens. Which experts
// are chosen is taken as given. Written with the ops of kernels/, so that it is the same for every backend; the host
// reads the router's choice, so it waits for the device. Not thread-safe, like the device.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/base/buffer.h"
#include "kernels/base/device.h"
#include "kernels/base/view.h"
#include "runtime/weights/config.h"
#include "runtime/weights/weights.h"

namespace duo {

// What the router said, on the host.
struct RouterChoice {
  int experts = 0, chosen = 0;
  bool normalised = false;
  std::vector<int32_t> ids;    // [rows][chosen]
  std::vector<float> weights;  // [rows][chosen]
  std::vector<float> logits;   // [rows][columns]: the experts', then whatever else
  int64_t columns = 0;
};
// The gradient of the first `experts` logits of each row from that of its weights [rows][chosen]; into dlogits
// [rows][columns], whose other columns stay.
void RouterGradient(const RouterChoice& choice, const std::vector<float>& dweights, std::vector<float>* dlogits);

struct ExpertLayer {
  const ExpertsConfig& experts;
  const WeightSet& weights;  // of one rank that holds all
};

// dx [rows, dim] T from dout [rows, dim] T and the mixture's input x [rows, dim] T; dx may be x.
void ExpertsBackward(Device& device, const ExpertLayer& layer, View dx, View dout, View x, Arena& scratch);

}  // namespace duo
