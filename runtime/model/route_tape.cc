#include "runtime/model/route_tape.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "kernels/base/device.h"

namespace duo {
namespace {

std::vector<float> DownloadLogits(Device& device, const View& logits, int experts) {
  std::vector<float> all(logits.rows * experts);
  for (int64_t row = 0; row < logits.rows; ++row) {
    device.Download(&all[row * experts], logits.as<float>() + row * logits.stride, sizeof(float) * experts);
  }
  return all;
}

// RouteRows' order: the largest first, of equal ones the lowest expert.
std::vector<int32_t> LargestOf(const float* logits, const ExpertsConfig& experts) {
  std::vector<int32_t> order(experts.count);
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + experts.chosen, order.end(),
                    [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  order.resize(experts.chosen);
  return order;
}

// RouteRows' weights of these experts.
void WeighInto(float* weights, const float* logits, const int32_t* chosen, const ExpertsConfig& experts) {
  const float top = *std::max_element(logits, logits + experts.count);
  double sum = 0;
  for (int e = 0; e < (experts.normalised ? experts.chosen : experts.count); ++e) {
    sum += std::exp(logits[experts.normalised ? chosen[e] : e] - top);
  }
  for (int j = 0; j < experts.chosen; ++j) weights[j] = static_cast<float>(std::exp(logits[chosen[j]] - top) / sum);
}

}  // namespace

void RouteTape::Record(Layer& layer, const std::vector<float>& logits, const std::vector<int32_t>& chosen,
                       const ExpertsConfig& experts) {
  for (size_t row = 0; row < chosen.size() / experts.chosen; ++row) {
    const std::vector<int32_t> largest = LargestOf(&logits[row * experts.count], experts);
    for (int j = 0; j < experts.chosen; ++j) wrong_places_ += chosen[row * experts.chosen + j] != largest[j] ? 1 : 0;
  }
  const auto distinct = static_cast<int64_t>(std::set<int32_t>(chosen.begin(), chosen.end()).size());
  fewest_ = seen_ == 0 ? distinct : std::min(fewest_, distinct);
  distinct_ += distinct;
  ++seen_;
  layer.logits.insert(layer.logits.end(), logits.begin(), logits.end());
  layer.experts.insert(layer.experts.end(), chosen.begin(), chosen.end());
  layer.rows += static_cast<int64_t>(chosen.size()) / experts.chosen;
}

void RouteTape::Seen(Device& device, int layer, const View& logits, const Routing& routing,
                     const ExpertsConfig& experts) {
  if (static_cast<size_t>(layer) >= layers_.size()) layers_.resize(layer + 1);
  Layer& tape = layers_[layer];
  const std::vector<float> now = DownloadLogits(device, logits, experts.count);
  const size_t slots = logits.rows * experts.chosen;
  if (!replays_) {
    std::vector<int32_t> chosen(slots);
    device.Download(chosen.data(), routing.experts, sizeof(int32_t) * slots);
    return Record(tape, now, chosen, experts);
  }
  const size_t first = tape.replayed * experts.count, first_slot = tape.replayed * experts.chosen;
  if (tape.replayed + logits.rows > tape.rows) {  // more than were recorded
    fits_ = false;
    return;
  }
  std::vector<float> weights(slots);
  for (size_t i = 0; i < now.size(); ++i) {
    difference_ += std::pow(now[i] - tape.logits[first + i], 2);
    norm_ += std::pow(tape.logits[first + i], 2);
  }
  for (int64_t row = 0; row < logits.rows; ++row) {
    const int32_t* recorded = &tape.experts[first_slot + row * experts.chosen];
    const float* of_row = &now[row * experts.count];
    const std::vector<int32_t> own = LargestOf(of_row, experts);
    changed_ += std::is_permutation(own.begin(), own.end(), recorded) ? 0 : 1;
    WeighInto(&weights[row * experts.chosen], of_row, recorded, experts);
  }
  device.Upload(routing.experts, &tape.experts[first_slot], sizeof(int32_t) * slots);
  device.Upload(routing.weights, weights.data(), sizeof(float) * slots);
  tape.replayed += logits.rows;
}

void RouteTape::Replay() {
  replays_ = true;
  for (Layer& layer : layers_) layer.replayed = 0;
}

RouteReport RouteTape::Report() const {
  RouteReport report;
  report.layers = seen_;
  report.distinct = seen_ > 0 ? static_cast<double>(distinct_) / static_cast<double>(seen_) : 0;
  report.fewest = fewest_;
  report.wrong_places = wrong_places_;
  report.changed = changed_;
  report.logit_error = norm_ > 0 ? std::sqrt(difference_ / norm_) : 0;
  report.complete = replays_ && fits_;
  for (const Layer& layer : layers_) report.complete &= layer.replayed == layer.rows;
  return report;
}

}  // namespace duo
