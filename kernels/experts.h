// Mixtures of experts: a router's logits choose a few of many small gated MLPs for each row, and their outputs are
// added up with the router's weights. CPU and CUDA.
//
// An expert that no row chooses is not read. A row's result does not depend on the rows beside it but for the number of
// rows that choose the same expert, as with Linear: products are Linear's, and a row's outputs are added up in an order
// of its own. Types, pointers and threads are those of ops.h.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels/base/buffer.h"
#include "kernels/base/device.h"
#include "kernels/base/view.h"
#include "kernels/ops.h"

namespace duo {

constexpr int kMostExperts = 1024;      // of a layer
constexpr int kMostChosenExperts = 64;  // for one row

// Which experts work on each row.
struct Routing {
  int32_t* experts = nullptr;  // [rows][chosen], all of a row different
  float* weights = nullptr;    // [rows][chosen]
  int chosen = 0;
};

// The matrices of a layer's experts, one below the other; or of some that follow each other, where others hold the
// rest: what rows chose of those counts as zero, and is not read.
struct ExpertBank {
  int experts = 0;
  Weight gate_up;  // [experts * 2 n, dim]: of each expert all gate rows, then all up rows
  Weight down;     // [experts * dim, n]
  // 0: silu(gate) * up. Above: ClampedGate.
  float limit = 0;
  float alpha = 0;
  // Routing's expert `first` is this bank's first one, of `all` in the layer; all 0: the bank has them all.
  int first = 0, all = 0;
  bool partial() const { return all > experts; }
  // Of a routing's expert; meaningless where it is not here.
  DUO_HD int Place(int expert) const { return expert - first; }
  DUO_HD bool Has(int expert) const { return expert >= first && expert < first + experts; }
};
// gate * sigmoid(alpha gate) * (up + 1), gate at most `limit` and up between -limit and limit. A NaN stays one.
DUO_HD inline float ClampedGate(float gate, float up, float limit, float alpha) {
  const float g = gate > limit ? limit : gate;
  const float u = up > limit ? limit : up < -limit ? -limit : up;
  return (u + 1.0f) * (g / (1.0f + expf(-alpha * g)));
}
// Those of one expert.
Weight ExpertRows(const Weight& bank, int experts, int expert);

// The `chosen` largest of the first `experts` logits [rows, >= experts] f32 in descending order (ties: the lowest
// expert first), weighted by the softmax over all of those logits, or, `normalised`, over the chosen ones alone. A NaN
// counts as the least, and makes its row's weights NaN.
void RouteRows(Device& device, const Routing& out, View logits, int experts, bool normalised);

// out [rows, dim] T = sum over the row's experts of weight * down(silu(gate x) * up x), x [rows, dim] T, or with
// ClampedGate in the middle. Gate, up and their product are rounded to T as LinearSwiGlu rounds them. Rows of which the
// bank has no expert are zero.
size_t ExpertMlpScratchBytes(const Device& device, int64_t rows, const ExpertBank& bank, int chosen);
void ExpertMlp(Device& device, View out, View x, const ExpertBank& bank, const Routing& routing, Arena& scratch);

// out [rows, dim] T += sigmoid(gates [rows, 1] f32) * add [rows, dim] T.
void AddGated(Device& device, View out, View add, View gates);

}  // namespace duo
