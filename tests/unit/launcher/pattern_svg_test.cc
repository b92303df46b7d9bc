#include "launcher/identify/pattern_svg.h"

#include <gtest/gtest.h>

#include "tests/unit/expect.h"

namespace duo {
namespace {

TEST(PatternSvg, HasACellForEveryHeadInTheColourOfItsGate) {
  Pattern pattern;
  pattern.layers = 2;
  pattern.kv_heads = 3;
  pattern.gates = {0, 1, 0.5, -0.001, 0.25, 1.2};  // clipped to [0, 1]
  const std::string svg = PatternSvg(pattern, "a < b");
  size_t cells = 0;
  for (size_t at = svg.find("<title>layer"); at != std::string::npos; at = svg.find("<title>layer", at + 1)) ++cells;
  EXPECT_EQ(cells, 6u);
  EXPECT_TRUE(Contains(svg, "fill=\"#08306b\" stroke=\"#fff\"><title>layer 0, head 1: 1.000"));
  EXPECT_TRUE(Contains(svg, "fill=\"#08306b\" stroke=\"#fff\"><title>layer 1, head 2: 1.000"));
  EXPECT_TRUE(Contains(svg, "fill=\"#f7faff\" stroke=\"#fff\"><title>layer 1, head 0: 0.000"));
  EXPECT_TRUE(Contains(svg, "2 of 6 gates above 0.5; sink 64, recent 256 tokens"));
  EXPECT_TRUE(Contains(svg, "a &lt; b"));
}

}  // namespace
}  // namespace duo
