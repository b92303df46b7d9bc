// What `duo identify` tells about a pattern: held-out facts found and perplexity at several sparsities, as a table, as
// JSON and as a picture. Plain values and pure functions of them; any thread.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/identify/identify_evaluate.h"

namespace duo {

// One choice of heads.
struct ReportRow {
  std::string name;     // "full", "duo 0.5", "streaming"
  double sparsity = 0;  // share of streaming heads that was asked for
  int retrieval = 0, streaming = 0;
  std::vector<std::vector<RecallCount>> recall;  // [lengths][facts], facts by depth
  Perplexity perplexity;
  double seconds = 0;  // that it took to measure

  RecallCount at_length(size_t length) const { return Sum(recall[length]); }
};

struct IdentifyReport {
  std::string model, task, device;
  std::vector<int64_t> lengths;  // tokens
  int window = 0;                // of perplexity, tokens
  std::vector<ReportRow> rows;   // the first is full attention

  // Lengths at which full attention finds at least 80 %: where a comparison says something about the heads.
  std::vector<size_t> Answered() const;
  RecallCount OverAnswered(const ReportRow& row) const;
};

// For people: one line a choice of heads.
std::string ReportTable(const IdentifyReport& report);
// Of one choice: facts found by length and depth.
std::string DepthTable(const IdentifyReport& report, const ReportRow& row);
nlohmann::ordered_json ReportJson(const IdentifyReport& report);
// Two curves over sparsity: facts found and perplexity.
std::string ReportSvg(const IdentifyReport& report);

// What a window of the pattern's sizes would miss of each KV head's attention; mass: shares, [layers][kv_heads].
std::string MassOutsideTable(const Pattern& pattern, double sparsity, const std::vector<double>& mass);
nlohmann::ordered_json MassOutsideJson(const Pattern& pattern, const std::vector<double>& mass);

}  // namespace duo
