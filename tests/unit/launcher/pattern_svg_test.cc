#include "launcher/identify/pattern_svg.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <regex>
#include <string>

#include "tests/unit/expect.h"

namespace duo {
namespace {

// Every match of a regular expression in a text.
std::vector<std::smatch> Matches(const std::string& text, const char* regex) {
  const std::regex pattern(regex);
  return {std::sregex_iterator(text.begin(), text.end(), pattern), std::sregex_iterator()};
}

// The relative luminance of "#rrggbb" or "#rgb", as WCAG 2 defines it.
double Luminance(const std::string& colour) {
  double sum = 0;
  const double weights[3] = {0.2126, 0.7152, 0.0722};
  for (int c = 0; c < 3; ++c) {
    const std::string digits = colour.size() == 4 ? std::string(2, colour[1 + c]) : colour.substr(1 + 2 * c, 2);
    const double v = std::stoi(digits, nullptr, 16) / 255.0;
    sum += weights[c] * (v <= 0.03928 ? v / 12.92 : std::pow((v + 0.055) / 1.055, 2.4));
  }
  return sum;
}

Pattern Ramp(int layers, int kv_heads) {
  Pattern pattern;
  pattern.layers = layers;
  pattern.kv_heads = kv_heads;
  for (int i = 0; i < layers * kv_heads; ++i) pattern.gates.push_back(static_cast<double>(i) / (layers * kv_heads - 1));
  return pattern;
}

TEST(PatternSvg, DigitsCanBeReadOnTheirCells) {
  const std::string svg = PatternSvg(Ramp(26, 4), "ramp");
  const std::vector<std::smatch> cells = Matches(svg, "fill=\"(#[0-9a-f]{6})\" stroke=\"#fff\"><title>"),
                                 digits = Matches(svg, "font-size=\"9\" fill=\"(#[0-9a-f]{3,6})\">[0-9]+<");
  ASSERT_EQ(cells.size(), 104u);
  ASSERT_EQ(digits.size(), 104u);
  for (size_t i = 0; i < cells.size(); ++i) {
    const double a = Luminance(cells[i][1]), b = Luminance(digits[i][1]);
    EXPECT_GE((std::max(a, b) + 0.05) / (std::min(a, b) + 0.05), 4.5) << "cell " << i;
  }
}

TEST(PatternSvg, NoLineIsCutOff) {
  const std::string title = "A-Model-Whose-Name-Is-Longer-Than-Most-Names-3.1-70B-Instruct-Gradient-4194k: gates";
  for (const int kv_heads : {2, 4, 32}) {
    const std::string svg = PatternSvg(Ramp(3, kv_heads), title);
    const int width = std::stoi(Matches(svg, "width=\"([0-9]+)\"")[0][1]);
    for (const std::smatch& line : Matches(svg, "<text x=\"8\" [^>]*>([^<]*)</text>")) {
      const bool large = line.str().find("font-size=\"14\"") != std::string::npos;
      // DejaVu Sans, the widest of the usual fonts, takes 0.55 of its size a letter in such sentences.
      const double needs = 8 + 0.55 * (large ? 14 : 10) * static_cast<double>(line[1].length());
      EXPECT_LE(needs, width) << line[1];
    }
  }
}

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
