#include "runtime/kv/window_rings.h"

#include <gtest/gtest.h>

#include "runtime/weights/families.h"

namespace duo {
namespace {

ModelConfig Windowed(Family family, int64_t window) {
  ModelConfig config;
  config.family = family;
  config.layers = 3;
  config.kv_heads = 2;
  config.sliding_window = window;
  config.window_layers = {1, 0, 1};
  return config;
}

TEST(WindowRings, LayersWithWindowsStreamWhereTheRecentTokensCoverThem) {
  HeadPlan plan = FullPlan(3, 2);
  plan.retrieval = {1, 0, 1, 0, 1, 1};
  plan.recent = 16;
  HeadPlan narrow = plan;
  KeepWindowsInRings(Windowed(Family::kGptOss, 17), &plan);
  EXPECT_EQ(plan.retrieval, (std::vector<uint8_t>{0, 0, 1, 0, 0, 0}));
  EXPECT_EQ(plan.recent, 16);
  const HeadPlan before = narrow;
  KeepWindowsInRings(Windowed(Family::kGptOss, 18), &narrow);  // one token more than rings hold
  EXPECT_EQ(narrow, before);
}

TEST(WindowRings, WithoutStreamingHeadsRingsAreAsLongAsTheWindow) {
  HeadPlan plan = FullPlan(3, 2);
  KeepWindowsInRings(Windowed(Family::kGptOss, 400), &plan);
  EXPECT_EQ(plan.sink, 0);
  EXPECT_EQ(plan.recent, 399);
  EXPECT_EQ(plan.retrieval, (std::vector<uint8_t>{0, 0, 1, 1, 0, 0}));
}

TEST(WindowRings, OtherFamiliesKeepTheirPages) {
  HeadPlan plan = FullPlan(3, 2);
  const HeadPlan before = plan;
  KeepWindowsInRings(Windowed(Family::kMistral, 64), &plan);
  EXPECT_EQ(plan, before);
  ModelConfig config = Windowed(Family::kGptOss, 0);
  config.window_layers.clear();
  KeepWindowsInRings(config, &plan);
  EXPECT_EQ(plan, before);
}

}  // namespace
}  // namespace duo
