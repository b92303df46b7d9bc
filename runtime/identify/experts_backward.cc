#include "runtime/identify/experts_backward.h"

#include <algorithm>
#include <cmath>

#include "kernels/backward.h"
#include "kernels/experts.h"
#include "kernels/ops.h"

namespace duo {
namespace {

// Rows of a gated MLP with a gradient of their own.
struct MlpRows {
  const Weight &gate_up, &down;
  View x, dout;  // T [rows, dim]; x becomes its gradient
};
// dots[i] = dout's row i times the MLP's output for it.
void MlpBackward(Device& device, const MlpRows& mlp, float* dots, Arena& scratch) {
  const size_t mark = scratch.used();
  const DType t = mlp.x.dtype;
  const int64_t rows = mlp.x.rows, n = mlp.down.cols;
  const View gate_up = scratch.Matrix(t, rows, 2 * n), product = scratch.Matrix(t, rows, n);
  const View y = scratch.Matrix(t, rows, mlp.x.cols);
  Linear(device, gate_up, mlp.x, mlp.gate_up, scratch);
  SwiGlu(device, product, gate_up);
  Linear(device, y, product, mlp.down, scratch);
  DotRows(device, dots, mlp.dout, y);
  LinearBackward(device, product, mlp.dout, mlp.down, scratch);
  SwiGluBackward(device, gate_up, product, gate_up);
  LinearBackward(device, mlp.x, gate_up, mlp.gate_up, scratch);
  scratch.Rewind(mark);
}

// The slots row * chosen + j sorted by expert, and where each expert's begin.
struct SortedSlots {
  std::vector<int64_t> begin;  // [experts + 1]
  std::vector<int64_t> slots;
  std::vector<int32_t> rows;   // of those slots
  std::vector<float> weights;  // of those slots
};
SortedSlots SortByExpert(const RouterChoice& choice) {
  SortedSlots sorted;
  sorted.begin.assign(choice.experts + 1, 0);
  for (const int32_t e : choice.ids) ++sorted.begin[e + 1];
  for (int e = 0; e < choice.experts; ++e) sorted.begin[e + 1] += sorted.begin[e];
  sorted.slots.resize(choice.ids.size());
  std::vector<int64_t> next(sorted.begin.begin(), sorted.begin.end() - 1);
  for (size_t s = 0; s < choice.ids.size(); ++s) sorted.slots[next[choice.ids[s]]++] = static_cast<int64_t>(s);
  for (const int64_t s : sorted.slots) {
    sorted.rows.push_back(static_cast<int32_t>(s / choice.chosen));
    sorted.weights.push_back(choice.weights[s]);
  }
  return sorted;
}

template <typename T>
T* UploadTo(Device& device, const std::vector<T>& host, Arena& scratch) {
  T* data = static_cast<T*>(scratch.Take(sizeof(T) * host.size()));
  device.Upload(data, host.data(), sizeof(T) * host.size());
  return data;
}

// A host matrix as activations.
View UploadActivations(Device& device, const std::vector<float>& host, int64_t rows, Arena& scratch) {
  const auto cols = static_cast<int64_t>(host.size()) / rows;
  const View view = scratch.Matrix(ActivationType(device), rows, cols);
  if (view.dtype == DType::kF32) {
    device.Upload(view.data, host.data(), sizeof(float) * host.size());
    return view;
  }
  std::vector<bf16> rounded(host.size());
  for (size_t i = 0; i < host.size(); ++i) rounded[i] = ToBf16(host[i]);
  device.Upload(view.data, rounded.data(), sizeof(bf16) * rounded.size());
  return view;
}

// Routes as the forward does, and reads the result. A device that only measures leaves the first guess: every row with
// the first experts.
RouterChoice Choose(Device& device, const ExpertsConfig& experts, const Weight& router, View x, Arena& scratch) {
  RouterChoice choice;
  choice.experts = experts.count;
  choice.chosen = experts.chosen;
  choice.normalised = experts.normalised;
  choice.columns = router.rows;
  const int64_t slots = x.rows * experts.chosen;
  choice.ids.resize(slots);
  for (int64_t s = 0; s < slots; ++s) choice.ids[s] = static_cast<int32_t>(s % experts.chosen);
  choice.weights.resize(slots);
  choice.logits.resize(x.rows * router.rows);
  const View logits = scratch.Matrix(DType::kF32, x.rows, router.rows);
  Linear(device, logits, x, router, scratch);
  const Routing routing = {static_cast<int32_t*>(scratch.Take(sizeof(int32_t) * slots)),
                           static_cast<float*>(scratch.Take(sizeof(float) * slots)), experts.chosen};
  RouteRows(device, routing, logits, experts.count, experts.normalised);
  device.Download(choice.ids.data(), routing.experts, sizeof(int32_t) * slots);
  device.Download(choice.weights.data(), routing.weights, sizeof(float) * slots);
  device.Download(choice.logits.data(), logits.data, sizeof(float) * choice.logits.size());
  return choice;
}

// What a pass adds to.
struct Gradients {
  View sum;                    // f32 [rows, dim], of x
  std::vector<float> dlogits;  // [rows][router.rows]
};

void AddChosenExperts(Device& device, const ExpertLayer& layer, const RouterChoice& choice, View dout, View x,
                      Gradients* to, Arena& scratch) {
  const size_t mark = scratch.used();
  const ExpertsConfig& experts = layer.experts;
  const SortedSlots sorted = SortByExpert(choice);
  const int32_t* rows = UploadTo(device, sorted.rows, scratch);
  const float* weights = UploadTo(device, sorted.weights, scratch);
  const auto slots = static_cast<int64_t>(sorted.slots.size());
  float* dots = static_cast<float*>(scratch.Take(sizeof(float) * slots));
  for (int e = 0; e < experts.count; ++e) {
    const int64_t first = sorted.begin[e], count = sorted.begin[e + 1] - first;
    if (count == 0) continue;
    const size_t inside = scratch.used();
    const View mine = scratch.Matrix(x.dtype, count, x.cols), dmine = scratch.Matrix(x.dtype, count, x.cols);
    GatherRows(device, mine, x, rows + first, static_cast<int>(count));
    GatherRows(device, dmine, dout, rows + first, static_cast<int>(count));
    const Weight gate_up = ExpertRows(layer.weights[WeightRole::kExpertGateUp], experts.count, e);
    const Weight down = ExpertRows(layer.weights[WeightRole::kExpertDown], experts.count, e);
    MlpBackward(device, {gate_up, down, mine, dmine}, dots + first, scratch);
    AddWeightedRows(device, to->sum, mine, {rows + first, weights + first});
    scratch.Rewind(inside);
  }
  std::vector<float> by_expert(slots), dweights(slots);
  device.Download(by_expert.data(), dots, sizeof(float) * slots);
  for (int64_t i = 0; i < slots; ++i) dweights[sorted.slots[i]] = by_expert[i];
  RouterGradient(choice, dweights, &to->dlogits);
  scratch.Rewind(mark);
}

// The expert for all tokens, weighted by the sigmoid of the router's last column.
void AddSharedExpert(Device& device, const ExpertLayer& layer, const RouterChoice& choice, View dout, View x,
                     Gradients* to, Arena& scratch) {
  const size_t mark = scratch.used();
  std::vector<float> gates(x.rows), dots(x.rows);
  for (int64_t r = 0; r < x.rows; ++r) {
    gates[r] = 1.0f / (1.0f + std::exp(-choice.logits[r * choice.columns + choice.experts]));
  }
  const float* weights = UploadTo(device, gates, scratch);
  float* device_dots = static_cast<float*>(scratch.Take(sizeof(float) * x.rows));
  const View mine = scratch.Matrix(x.dtype, x.rows, x.cols);
  device.Copy(mine.data, x.data, Bytes(x.dtype, x.rows * x.cols));
  MlpBackward(device, {layer.weights[WeightRole::kSharedGateUp], layer.weights[WeightRole::kSharedDown], mine, dout},
              device_dots, scratch);
  AddWeightedRows(device, to->sum, mine, {nullptr, weights});
  device.Download(dots.data(), device_dots, sizeof(float) * x.rows);
  for (int64_t r = 0; r < x.rows; ++r) {
    to->dlogits[r * choice.columns + choice.experts] = dots[r] * gates[r] * (1 - gates[r]);
  }
  scratch.Rewind(mark);
}

}  // namespace

void RouterGradient(const RouterChoice& choice, const std::vector<float>& dweights, std::vector<float>* dlogits) {
  const auto rows = static_cast<int64_t>(choice.ids.size()) / choice.chosen;
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t* ids = &choice.ids[r * choice.chosen];
    const float *weights = &choice.weights[r * choice.chosen], *mine = &dweights[r * choice.chosen];
    float* out = &(*dlogits)[r * choice.columns];
    double mean = 0;
    for (int j = 0; j < choice.chosen; ++j) mean += double{weights[j]} * mine[j];
    if (!choice.normalised) {  // the weights are shares of all experts, which lose what a chosen one gains
      const float* logits = &choice.logits[r * choice.columns];
      // The total follows from any chosen expert's share.
      const double scale = double{weights[0]};
      for (int e = 0; e < choice.experts; ++e) {
        out[e] = static_cast<float>(-mean * scale * std::exp(double{logits[e]} - logits[ids[0]]));
      }
      for (int j = 0; j < choice.chosen; ++j) out[ids[j]] += weights[j] * mine[j];
      continue;
    }
    for (int j = 0; j < choice.chosen; ++j) out[ids[j]] = static_cast<float>(weights[j] * (mine[j] - mean));
  }
}

void ExpertsBackward(Device& device, const ExpertLayer& layer, View dx, View dout, View x, Arena& scratch) {
  const size_t mark = scratch.used();
  DUO_CHECK(x.stride == x.cols && dout.stride == dout.cols);
  const Weight& router = layer.weights[WeightRole::kRouter];
  const RouterChoice choice = Choose(device, layer.experts, router, x, scratch);
  Gradients gradients;
  gradients.sum = scratch.Matrix(DType::kF32, x.rows, x.cols);
  gradients.dlogits.assign(x.rows * router.rows, 0.0f);
  device.Fill(gradients.sum.data, 0, Bytes(DType::kF32, x.rows * x.cols));
  AddChosenExperts(device, layer, choice, dout, x, &gradients, scratch);
  if (layer.experts.shared_intermediate > 0) {
    AddSharedExpert(device, layer, choice, dout, x, &gradients, scratch);
  }
  const View dlogits = UploadActivations(device, gradients.dlogits, x.rows, scratch);
  const View through_router = scratch.Matrix(x.dtype, x.rows, x.cols);
  LinearBackward(device, through_router, dlogits, router, scratch);
  AddWeightedRows(device, gradients.sum, through_router, {});
  RoundToActivations(device, dx, gradients.sum);
  scratch.Rewind(mark);
}

}  // namespace duo
