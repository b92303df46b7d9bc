#include "launcher/identify/identify_report.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "launcher/terminal/progress.h"

namespace duo {
namespace {

constexpr double kAnswers = 0.8;  // share found by full attention from which on a length is compared

// Points of one curve, x and y in data units.
struct Curve {
  const char* title;
  std::vector<std::pair<double, double>> points;
  double low = 0, high = 1;
  const char* format;  // of an axis label
};

// A panel of 300 x 180 with its axes at (x, y).
void DrawCurve(const Curve& curve, int x, int y, std::string* out) {
  constexpr int kWidth = 300, kHeight = 180;
  const auto at = [&](double px, double py) {
    const double share = std::clamp((py - curve.low) / (curve.high - curve.low), 0.0, 1.0);
    return std::pair(x + px * kWidth, y + kHeight - share * kHeight);
  };
  absl::StrAppendFormat(out, "<text x=\"%d\" y=\"%d\" font-size=\"13\">%s</text>\n", x, y - 14, curve.title);
  for (int i = 0; i <= 4; ++i) {
    const double value = curve.low + (curve.high - curve.low) * i / 4, line = at(0, value).second;
    absl::StrAppendFormat(out, "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"#e3e8ee\"/>\n", x, line,
                          x + kWidth, line);
    absl::StrAppendFormat(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", x - 6, line + 4,
                          absl::StrFormat(*absl::ParsedFormat<'f'>::New(curve.format), value));
    absl::StrAppendFormat(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%d %%</text>\n", x + kWidth * i / 4,
                          y + kHeight + 16, 25 * i);
  }
  absl::StrAppendFormat(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">share of streaming heads</text>\n",
                        x + kWidth / 2, y + kHeight + 32);
  std::string path;
  for (const auto& [px, py] : curve.points) {
    const auto [cx, cy] = at(px, py);
    absl::StrAppendFormat(&path, "%s%.1f,%.1f", path.empty() ? "" : " ", cx, cy);
  }
  absl::StrAppendFormat(out, "<polyline points=\"%s\" fill=\"none\" stroke=\"#1f5fbf\" stroke-width=\"2\"/>\n", path);
  for (const auto& [px, py] : curve.points) {
    const auto [cx, cy] = at(px, py);
    absl::StrAppendFormat(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"#1f5fbf\"/>\n", cx, cy);
  }
}

double ActualSparsity(const ReportRow& row) {
  return static_cast<double>(row.streaming) / std::max(1, row.retrieval + row.streaming);
}

}  // namespace

std::vector<size_t> IdentifyReport::Answered() const {
  std::vector<size_t> answered;
  for (size_t i = 0; i < lengths.size(); ++i) {
    if (!rows.empty() && rows[0].at_length(i).share() >= kAnswers) answered.push_back(i);
  }
  return answered;
}

RecallCount IdentifyReport::OverAnswered(const ReportRow& row) const {
  std::vector<size_t> answered = Answered();
  if (answered.empty()) {
    for (size_t i = 0; i < lengths.size(); ++i) answered.push_back(i);
  }
  RecallCount sum;
  for (const size_t i : answered) sum += row.at_length(i);
  return sum;
}

std::string ReportTable(const IdentifyReport& report) {
  std::string out =
      absl::StrFormat("Held-out facts found (%s), by tokens of the document:\n\n%-12s%8s", report.task, "", "heads");
  for (const int64_t length : report.lengths) absl::StrAppendFormat(&out, "%9s", Grouped(length));
  absl::StrAppendFormat(&out, "%9s%20s\n", "words", "perplexity");
  for (const ReportRow& row : report.rows) {
    RecallCount all;
    absl::StrAppendFormat(&out, "%-12s%8s", row.name, absl::StrCat(row.retrieval, "/", row.retrieval + row.streaming));
    for (size_t i = 0; i < report.lengths.size(); ++i) {
      const RecallCount count = row.at_length(i);
      all += count;
      absl::StrAppendFormat(&out, "%7.1f %%", 100 * count.share());
    }
    const double change = row.perplexity.perplexity() / report.rows[0].perplexity.perplexity() - 1;
    absl::StrAppendFormat(&out, "%7.1f %%%10.4f (%+.2f %%)\n", 100 * all.word_share(), row.perplexity.perplexity(),
                          100 * change);
  }
  absl::StrAppendFormat(
      &out,
      "\nheads: KV heads that keep everything; words: of all answers, in their place; perplexity: of %s "
      "tokens in windows of %d\n",
      Grouped(report.rows[0].perplexity.predicted), report.window);
  return out;
}

std::string DepthTable(const IdentifyReport& report, const ReportRow& row) {
  std::string out = absl::StrFormat("%s: facts found by depth\n\n%10s", row.name, "tokens");
  const size_t facts = row.recall.empty() ? 0 : row.recall[0].size();
  for (size_t f = 0; f < facts; ++f) absl::StrAppendFormat(&out, "%6.0f%%", 100 * (f + 0.5) / facts);
  absl::StrAppend(&out, "\n");
  for (size_t i = 0; i < report.lengths.size(); ++i) {
    absl::StrAppendFormat(&out, "%10s", Grouped(report.lengths[i]));
    for (const RecallCount& count : row.recall[i]) {
      absl::StrAppendFormat(&out, "%7s", absl::StrCat(count.found, "/", count.asked));
    }
    absl::StrAppend(&out, "\n");
  }
  return out;
}

nlohmann::ordered_json ReportJson(const IdentifyReport& report) {
  nlohmann::ordered_json out = {{"model", report.model},
                                {"task", report.task},
                                {"device", report.device},
                                {"lengths", report.lengths},
                                {"perplexity_window", report.window},
                                {"rows", nlohmann::ordered_json::array()}};
  for (const ReportRow& row : report.rows) {
    nlohmann::ordered_json by_length = nlohmann::ordered_json::array();
    for (size_t i = 0; i < report.lengths.size(); ++i) {
      const RecallCount count = row.at_length(i);
      nlohmann::ordered_json by_depth = nlohmann::ordered_json::array();
      for (const RecallCount& cell : row.recall[i]) by_depth.push_back(cell.found);
      by_length.push_back({{"tokens", report.lengths[i]},
                           {"asked", count.asked},
                           {"found", count.found},
                           {"words", count.word_share()},
                           {"found_by_depth", by_depth}});
    }
    out["rows"].push_back({{"name", row.name},
                           {"sparsity", row.sparsity},
                           {"retrieval_heads", row.retrieval},
                           {"streaming_heads", row.streaming},
                           {"perplexity", row.perplexity.perplexity()},
                           {"perplexity_tokens", row.perplexity.predicted},
                           {"found_where_full_attention_finds_80_percent", report.OverAnswered(row).share()},
                           {"recall", by_length},
                           {"seconds", row.seconds}});
  }
  return out;
}

std::string ReportSvg(const IdentifyReport& report) {
  Curve found{"facts found, %", {}, 0, 100, "%.0f"}, perplexity{"perplexity", {}, 0, 1, "%.2f"};
  double least = INFINITY, most = 0;
  for (const ReportRow& row : report.rows) {
    const double x = ActualSparsity(row), p = row.perplexity.perplexity();
    found.points.emplace_back(x, 100 * report.OverAnswered(row).share());
    perplexity.points.emplace_back(x, p);
    least = std::min(least, p);
    most = std::max(most, p);
  }
  perplexity.low = 0.99 * least;
  perplexity.high = std::max(1.01 * most, 1.05 * least);
  constexpr int kWidth = 800, kHeight = 320;
  std::string out = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
      "font-family=\"sans-serif\" font-size=\"11\" fill=\"#333\">\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n",
      kWidth, kHeight, kWidth, kHeight, kWidth, kHeight);
  std::string lengths;
  const std::vector<size_t> answered = report.Answered();
  for (const size_t i : answered) absl::StrAppend(&lengths, lengths.empty() ? "" : ", ", Grouped(report.lengths[i]));
  absl::StrAppendFormat(&out, "<text x=\"8\" y=\"22\" font-size=\"15\">%s: what its retrieval heads are worth</text>\n",
                        absl::StrReplaceAll(report.model, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}}));
  absl::StrAppendFormat(&out,
                        "<text x=\"8\" y=\"40\">held-out facts in documents of %s; heads with the lowest gates "
                        "stream first</text>\n",
                        answered.empty() ? "all lengths (full attention finds fewer than 80 % at each)"
                                         : absl::StrCat(lengths, " tokens"));
  DrawCurve(found, 60, 80, &out);
  DrawCurve(perplexity, 460, 80, &out);
  absl::StrAppend(&out, "</svg>\n");
  return out;
}

std::string MassOutsideTable(const Pattern& pattern, double sparsity, const std::vector<double>& mass) {
  std::string text = absl::StrFormat(
      "Attention that a window of %d + %d tokens would miss, %% of each KV head's (layers down, "
      "heads across; * = retrieval head at sparsity %g):\n\n",
      pattern.sink, pattern.recent, sparsity);
  absl::StatusOr<HeadPlan> plan = PlanBySparsity(pattern, sparsity);
  for (int l = 0; plan.ok() && l < pattern.layers; ++l) {
    absl::StrAppendFormat(&text, "%4d ", l);
    for (int h = 0; h < pattern.kv_heads; ++h) {
      absl::StrAppendFormat(&text, "%6.1f%s", 100 * mass[l * pattern.kv_heads + h],
                            plan->is_retrieval(l, h) ? "*" : " ");
    }
    absl::StrAppend(&text, "\n");
  }
  return text;
}

nlohmann::ordered_json MassOutsideJson(const Pattern& pattern, const std::vector<double>& mass) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (auto layer = mass.begin(); layer != mass.end(); layer += pattern.kv_heads) {
    json.push_back(std::vector<double>(layer, layer + pattern.kv_heads));
  }
  return json;
}

}  // namespace duo
