// Which experts rows chose, and the same experts given to a second run.
#include "runtime/model/route_tape.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/base/device.h"

namespace duo {
namespace {

ExpertsConfig FourExperts(bool normalised) {
  ExpertsConfig experts;
  experts.count = 4;
  experts.chosen = 2;
  experts.normalised = normalised;
  experts.layers = {1};
  return experts;
}

class RouteTapes : public testing::TestWithParam<bool> {
 protected:
  // A step of the layer: routes its rows, and shows them to the tape.
  void Step(RouteTape& tape, std::vector<float> logits) {
    const int rows = static_cast<int>(logits.size()) / 4;
    chosen_.assign(rows * 2, -1);
    weights_.assign(rows * 2, -1);
    const Routing routing = {chosen_.data(), weights_.data(), 2};
    const View view(logits.data(), DType::kF32, rows, 4);
    RouteRows(*device_, routing, view, 4, GetParam());
    if (spoilt_) std::swap(chosen_[0], chosen_[1]);
    tape.Seen(*device_, 0, view, routing, FourExperts(GetParam()));
  }

  std::unique_ptr<Device> device_ = Device::Cpu(1);
  std::vector<int32_t> chosen_;
  std::vector<float> weights_;
  bool spoilt_ = false;
};
INSTANTIATE_TEST_SUITE_P(Normalised, RouteTapes, testing::Bool());

TEST_P(RouteTapes, CountTheDistinctExpertsOfAStep) {
  RouteTape tape;
  Step(tape, {4, 3, 2, 1, 3, 4, 2, 1});  // 0 and 1 alone
  Step(tape, {4, 3, 2, 1, 1, 2, 3, 4});  // all four
  const RouteReport report = tape.Report();
  EXPECT_EQ(report.layers, 2);
  EXPECT_DOUBLE_EQ(report.distinct, 3);
  EXPECT_EQ(report.fewest, 2);
  EXPECT_EQ(report.wrong_places, 0);
  EXPECT_FALSE(report.complete);
}

TEST_P(RouteTapes, GiveTheExpertsOfTheFirstRunByTheLogitsOfTheSecond) {
  RouteTape tape;
  Step(tape, {4, 3, 2.99f, 1, 1, 2, 3, 4});
  tape.Replay();
  Step(tape, {4, 2.98f, 3, 1});  // a near tie, on the other side now
  EXPECT_EQ(chosen_, (std::vector<int32_t>{0, 1}));
  const double all = std::exp(4.0) + std::exp(2.98) + (GetParam() ? 0 : std::exp(3.0) + std::exp(1.0));
  EXPECT_NEAR(weights_[0], std::exp(4.0) / all, 1e-6);
  EXPECT_NEAR(weights_[1], std::exp(2.98) / all, 1e-6);
  EXPECT_FALSE(tape.Report().complete);  // a row is still to come
  Step(tape, {1, 2, 3, 4});
  EXPECT_EQ(chosen_, (std::vector<int32_t>{3, 2}));
  const RouteReport report = tape.Report();
  EXPECT_TRUE(report.complete);
  EXPECT_EQ(report.changed, 1);
  EXPECT_GT(report.logit_error, 0.001);
  EXPECT_LT(report.logit_error, 0.01);
}

TEST_P(RouteTapes, SayWhatWasRoutedWrongly) {
  RouteTape tape;
  spoilt_ = true;
  Step(tape, {4, 3, 2, 1});
  EXPECT_EQ(tape.Report().wrong_places, 2);
}

TEST_P(RouteTapes, KnowRowsThatWereNotRecorded) {
  RouteTape tape;
  Step(tape, {4, 3, 2, 1});
  tape.Replay();
  Step(tape, {4, 3, 2, 1, 4, 3, 2, 1});
  EXPECT_FALSE(tape.Report().complete);
}

}  // namespace
}  // namespace duo
