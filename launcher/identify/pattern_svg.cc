#include "launcher/identify/pattern_svg.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace duo {
namespace {

// White at 0 to dark blue at 1.
std::string Colour(double gate) {
  constexpr int kWhite[3] = {247, 250, 255}, kBlue[3] = {8, 48, 107};
  int rgb[3];
  for (int c = 0; c < 3; ++c) rgb[c] = static_cast<int>(std::lround(kWhite[c] + gate * (kBlue[c] - kWhite[c])));
  return absl::StrFormat("#%02x%02x%02x", rgb[0], rgb[1], rgb[2]);
}

// From this gate on white digits stand out better from the cell than black ones.
constexpr double kWhiteDigits = 0.65;

}  // namespace

std::string PatternSvg(const Pattern& pattern, const std::string& title) {
  const int cell = pattern.kv_heads > 16 ? 12 : 22, left = 52, top = 80;
  const int title_width = 16 + static_cast<int>(title.size()) * 9;  // at most, in this size
  const int width = std::max({left + pattern.kv_heads * cell + 24, title_width, 420});
  const int height = top + pattern.layers * cell + 56;
  const bool numbers = cell >= 22;  // room for the gate's first digits
  std::string out = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
      "font-family=\"sans-serif\" font-size=\"10\" fill=\"#333\">\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n",
      width, height, width, height, width, height);
  const auto text = [&](int x, int y, const std::string& what, const char* more) {
    absl::StrAppendFormat(&out, "<text x=\"%d\" y=\"%d\"%s>%s</text>\n", x, y, more, what);
  };
  text(8, 20, absl::StrReplaceAll(title, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}}), " font-size=\"14\"");
  text(8, 38, "each cell is the gate of one KV head; dark (1): it needs the whole context;", "");
  text(8, 52, "light (0): the first and the most recent tokens are enough for it", "");
  for (int head = 0; head < pattern.kv_heads; ++head) {
    if (numbers || head % 4 == 0) {
      text(left + head * cell + cell / 2, top - 6, absl::StrCat(head), " text-anchor=\"middle\"");
    }
  }
  for (int layer = 0; layer < pattern.layers; ++layer) {
    const int y = top + layer * cell;
    text(left - 8, y + cell / 2 + 4, absl::StrCat(layer), " text-anchor=\"end\"");
    for (int head = 0; head < pattern.kv_heads; ++head) {
      const double gate = std::clamp(pattern.gate(layer, head), 0.0, 1.0);
      absl::StrAppendFormat(&out,
                            "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\" stroke=\"#fff\">"
                            "<title>layer %d, head %d: %.3f</title></rect>\n",
                            left + head * cell, y, cell, cell, Colour(gate), layer, head, gate);
      if (numbers) {
        text(left + head * cell + cell / 2, y + cell / 2 + 4, absl::StrFormat("%.0f", 100 * gate),
             gate > kWhiteDigits ? " text-anchor=\"middle\" font-size=\"9\" fill=\"#fff\""
                                 : " text-anchor=\"middle\" font-size=\"9\" fill=\"#000\"");
      }
    }
  }
  const auto strong = std::count_if(pattern.gates.begin(), pattern.gates.end(), [](double gate) { return gate > 0.5; });
  text(8, height - 32, "rows: layers; columns: KV heads; numbers: gate in hundredths", "");
  text(8, height - 16,
       absl::StrFormat("%d of %d gates above 0.5; sink %d, recent %d tokens", strong, pattern.gates.size(),
                       pattern.sink, pattern.recent),
       "");
  absl::StrAppend(&out, "</svg>\n");
  return out;
}

}  // namespace duo
