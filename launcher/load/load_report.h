// What came of a load: times of all calls, and what is said of them. Plain values; a LoadLog belongs to one thread
// until it is merged. Times are seconds from the load's begin.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace duo {

// Of a number of seconds, all 0 where there are none.
struct Percentiles {
  size_t count = 0;
  double p50 = 0, p90 = 0, p99 = 0, worst = 0;
};
Percentiles PercentilesOf(std::vector<double> values);

struct GapSeen {
  double at = 0;       // when the token came
  double seconds = 0;  // since the answer's last one
};

// What one client saw.
struct LoadLog {
  std::vector<double> first_tokens;  // from the call to its first token
  std::vector<GapSeen> gaps;
  std::vector<double> worst_gaps;  // of each answer
  int64_t requests = 0, tokens = 0, within_goal = 0;
  int64_t read_tokens = 0, reads = 0;
  double read_seconds = 0;                  // of these, from the call to its end, added up
  std::map<std::string, int64_t> intended;  // refused as they were to be, or cancelled, by code
  std::map<std::string, int64_t> errors;    // others, by code and sentence
  void Merge(const LoadLog& other);
};

// What the server holds more of than before the load, when all its sessions are closed and its calls have ended.
struct LeftBehind {
  int64_t pages = 0, rings = 0, sessions = 0, calls = 0;
  bool nothing() const { return pages == 0 && rings == 0 && sessions == 0 && calls == 0; }
};

struct LoadResult {
  int clients = 0;
  double seconds = 0;  // from the first call after preparation to the last one's end
  LoadLog log;
  double alone_rate = 0;  // tokens a second of a document that was read with nothing beside; 0: none was
  // The engine's own, meanwhile.
  int64_t steps = 0, prefill_tokens = 0, decode_tokens = 0;
  double busy_seconds = 0;
  std::optional<LeftBehind> left;  // of a mixed load, which has the server for itself
  bool interrupted = false;  // ended by Ctrl-C before it was over

  double read_rate() const { return log.read_seconds > 0 ? log.read_tokens / log.read_seconds : 0; }
};

nlohmann::ordered_json ToJson(const LoadResult& result);
// A table, a line for each result.
std::string TableOf(const std::vector<LoadResult>& results);
// Throughput over clients, and the gaps of the last result over time.
std::string LoadSvg(const std::vector<LoadResult>& results, const std::string& title);

}  // namespace duo
