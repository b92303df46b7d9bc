#include "launcher/load/load_report.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace duo {
namespace {

nlohmann::ordered_json Json(const Percentiles& p) {
  return {{"count", p.count}, {"p50", p.p50}, {"p90", p.p90}, {"p99", p.p99}, {"worst", p.worst}};
}

std::vector<double> SecondsOf(const std::vector<GapSeen>& gaps) {
  std::vector<double> seconds;
  seconds.reserve(gaps.size());
  for (const GapSeen& gap : gaps) seconds.push_back(gap.seconds);
  return seconds;
}

double PerSecond(const LoadResult& r, int64_t count) {
  return r.seconds > 0 ? static_cast<double>(count) / r.seconds : 0;
}

}  // namespace

Percentiles PercentilesOf(std::vector<double> values) {
  Percentiles p;
  p.count = values.size();
  if (values.empty()) return p;
  std::sort(values.begin(), values.end());
  // The smallest value that so many per cent of all are not above.
  const auto at = [&](double share) {
    const auto rank = static_cast<size_t>(std::ceil(share * static_cast<double>(values.size())));
    return values[std::max<size_t>(rank, 1) - 1];
  };
  p.p50 = at(0.5);
  p.p90 = at(0.9);
  p.p99 = at(0.99);
  p.worst = values.back();
  return p;
}

void LoadLog::Merge(const LoadLog& other) {
  const auto append = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
  append(first_tokens, other.first_tokens);
  append(gaps, other.gaps);
  append(worst_gaps, other.worst_gaps);
  requests += other.requests;
  tokens += other.tokens;
  within_goal += other.within_goal;
  read_tokens += other.read_tokens;
  reads += other.reads;
  read_seconds += other.read_seconds;
  for (const auto& [what, count] : other.intended) intended[what] += count;
  for (const auto& [what, count] : other.errors) errors[what] += count;
}

nlohmann::ordered_json ToJson(const LoadResult& r) {
  const auto share = [](int64_t part, int64_t of) { return of > 0 ? static_cast<double>(part) / of : 0.0; };
  nlohmann::ordered_json json = {
      {"clients", r.clients},
      {"seconds", r.seconds},
      {"requests", r.log.requests},
      {"requests_per_second", PerSecond(r, r.log.requests)},
      {"tokens", r.log.tokens},
      {"tokens_per_second", PerSecond(r, r.log.tokens)},
      {"first_token_seconds", Json(PercentilesOf(r.log.first_tokens))},
      {"gap_seconds", Json(PercentilesOf(SecondsOf(r.log.gaps)))},
      {"worst_gap_seconds", Json(PercentilesOf(r.log.worst_gaps))},
      {"within_goal", share(r.log.within_goal, static_cast<int64_t>(r.log.first_tokens.size()))},
      {"intended", r.log.intended},
      {"errors", r.log.errors},
      {"engine",
       {{"steps", r.steps},
        {"busy_seconds", r.busy_seconds},
        {"mean_step_seconds", r.steps > 0 ? r.busy_seconds / static_cast<double>(r.steps) : 0},
        {"prefill_tokens", r.prefill_tokens},
        {"decode_tokens", r.decode_tokens}}}};
  if (r.left.has_value()) {
    json["left_behind"] = {{"pages", r.left->pages},
                           {"rings", r.left->rings},
                           {"sessions", r.left->sessions},
                           {"calls", r.left->calls}};
  }
  if (r.log.reads > 0) {
    json["reads"] = {{"count", r.log.reads}, {"tokens", r.log.read_tokens}, {"tokens_per_second", r.read_rate()}};
  }
  if (r.alone_rate > 0) {
    json["reads"]["alone_tokens_per_second"] = r.alone_rate;
    json["reads"]["share_of_alone"] = r.read_rate() / r.alone_rate;
  }
  return json;
}

std::string TableOf(const std::vector<LoadResult>& results) {
  std::string table = absl::StrFormat("%7s %9s %10s %21s %31s %9s %s\n", "clients", "tokens/s", "requests/s",
                                      "first token p50, p99", "gap p50, p90, p99, worst (ms)", "step (ms)", "reads");
  for (const LoadResult& r : results) {
    const Percentiles first = PercentilesOf(r.log.first_tokens), gap = PercentilesOf(SecondsOf(r.log.gaps));
    std::string reads = "-";
    if (r.log.reads > 0) reads = absl::StrFormat("%.0f tokens/s", r.read_rate());
    if (r.alone_rate > 0) absl::StrAppendFormat(&reads, ", %.0f %% of alone", 100 * r.read_rate() / r.alone_rate);
    absl::StrAppendFormat(&table, "%7d %9.1f %10.2f %10.0f %10.0f %7.1f %7.1f %7.1f %7.1f %9.2f %s\n", r.clients,
                          PerSecond(r, r.log.tokens), PerSecond(r, r.log.requests), 1e3 * first.p50, 1e3 * first.p99,
                          1e3 * gap.p50, 1e3 * gap.p90, 1e3 * gap.p99, 1e3 * gap.worst,
                          r.steps > 0 ? 1e3 * r.busy_seconds / static_cast<double>(r.steps) : 0, reads);
    for (const auto& [what, count] : r.log.errors) absl::StrAppendFormat(&table, "  %d times %s\n", count, what);
    if (r.left.has_value() && !r.left->nothing()) {
      absl::StrAppendFormat(&table, "  left behind: %d pages, %d rings, %d sessions, %d calls\n", r.left->pages,
                            r.left->rings, r.left->sessions, r.left->calls);
    }
  }
  return table;
}

}  // namespace duo
