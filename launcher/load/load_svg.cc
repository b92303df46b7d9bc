// The picture of a load: throughput over clients, and the gaps of its last result over time.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "launcher/load/load_report.h"

namespace duo {
namespace {

constexpr int kWidth = 420, kHeight = 240, kLeft = 64, kTop = 60;
constexpr int kSlots = 120;  // of the time, for which gaps are summed up

// A number of 1, 2 or 5 times a power of ten, not below `most`.
double RoundAbove(double most) {
  if (!(most > 0)) return 1;
  const double power = std::pow(10, std::floor(std::log10(most)));
  for (const double times : {1.0, 2.0, 5.0}) {
    if (most <= times * power) return times * power;
  }
  return 10 * power;
}

struct Point {
  double x, y;
};

// One picture of the two, at a distance from the left edge.
class Chart {
 public:
  Chart(std::string* out, int left, double most_x, double most_y)
      : out_(out), left_(left + kLeft), most_x_(RoundAbove(most_x)), most_y_(RoundAbove(most_y)) {}

  void Frame(const char* title, const char* x, const char* y) {
    Text(left_, kTop - 14, title, " font-size=\"12\"");
    for (int i = 0; i <= 4; ++i) {
      const double share = i / 4.0;
      const int at_y = static_cast<int>(kTop + kHeight * (1 - share));
      absl::StrAppendFormat(out_, "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\" stroke=\"#ddd\"/>\n", left_, at_y,
                            left_ + kWidth, at_y);
      Text(left_ - 6, at_y + 4, absl::StrFormat("%g", share * most_y_), " text-anchor=\"end\"");
      Text(left_ + static_cast<int>(kWidth * share), kTop + kHeight + 16, absl::StrFormat("%g", share * most_x_),
           " text-anchor=\"middle\"");
    }
    Text(left_ + kWidth / 2, kTop + kHeight + 34, x, " text-anchor=\"middle\"");
    Text(left_ - 52, kTop - 28, y, "");
  }
  void Line(const std::vector<Point>& points, const char* colour, const char* name, int row) {
    std::string at;
    for (const Point& p : points) absl::StrAppendFormat(&at, "%.1f,%.1f ", X(p.x), Y(p.y));
    absl::StrAppendFormat(out_, "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\"/>\n", at,
                          colour);
    for (const Point& p : points) {
      if (points.size() > 40) break;
      absl::StrAppendFormat(out_,
                            "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"><title>%g, %g</title></circle>\n",
                            X(p.x), Y(p.y), colour, p.x, p.y);
    }
    Text(left_ + kWidth - 6, kTop + 14 + 14 * row, name,
         absl::StrFormat(" text-anchor=\"end\" fill=\"%s\"", colour).c_str());
  }

 private:
  double X(double x) const { return left_ + kWidth * x / most_x_; }
  double Y(double y) const { return kTop + kHeight * (1 - y / most_y_); }
  void Text(int x, int y, const std::string& what, const char* more) {
    absl::StrAppendFormat(out_, "<text x=\"%d\" y=\"%d\"%s>%s</text>\n", x, y, more, what);
  }

  std::string* out_;
  int left_;
  double most_x_, most_y_;
};

// The median and the longest of each slot of time, in milliseconds.
void SumUp(const LoadResult& result, std::vector<Point>* median, std::vector<Point>* longest) {
  std::vector<std::vector<double>> slots(kSlots);
  for (const GapSeen& gap : result.log.gaps) {
    const double slot = kSlots * gap.at / std::max(result.seconds, 1e-9);
    slots[std::clamp(static_cast<int>(slot), 0, kSlots - 1)].push_back(1e3 * gap.seconds);
  }
  for (int i = 0; i < kSlots; ++i) {
    const Percentiles p = PercentilesOf(slots[i]);
    if (p.count == 0) continue;
    const double at = (i + 0.5) * result.seconds / kSlots;
    median->push_back({at, p.p50});
    longest->push_back({at, p.worst});
  }
}

}  // namespace

std::string LoadSvg(const std::vector<LoadResult>& results, const std::string& title) {
  const int width = 2 * (kWidth + kLeft + 32), height = kTop + kHeight + 48;
  std::string out = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
      "font-family=\"sans-serif\" font-size=\"10\" fill=\"#333\">\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n",
      width, height, width, height, width, height);
  absl::StrAppendFormat(&out, "<text x=\"8\" y=\"18\" font-size=\"14\">%s</text>\n",
                        absl::StrReplaceAll(title, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}}));
  std::vector<Point> rates, median, longest;
  double most_rate = 0, most_clients = 0, most_gap = 0;
  for (const LoadResult& r : results) {
    rates.push_back({static_cast<double>(r.clients), r.seconds > 0 ? r.log.tokens / r.seconds : 0});
    most_rate = std::max(most_rate, rates.back().y);
    most_clients = std::max(most_clients, rates.back().x);
  }
  if (!results.empty()) SumUp(results.back(), &median, &longest);
  for (const Point& p : longest) most_gap = std::max(most_gap, p.y);
  Chart throughput(&out, 0, most_clients, most_rate);
  throughput.Frame("Throughput", "clients", "tokens/s");
  throughput.Line(rates, "#08519c", "", 0);
  Chart gaps(&out, kWidth + kLeft + 24, results.empty() ? 0 : results.back().seconds, most_gap);
  gaps.Frame("Time between an answer's tokens", "seconds", "ms");
  gaps.Line(longest, "#cb181d", "longest", 0);
  gaps.Line(median, "#08519c", "median", 1);
  return out + "</svg>\n";
}

}  // namespace duo
