// What `duo client` prints for people: sessions as lines and tables, the server's plan and counters.
// All but sources goes to stdout. One thread.
#pragma once

#include <cstdint>
#include <string>

#include "duo/v1/duo.pb.h"
#include "runtime/model/decode_sparsity.h"

namespace duo {

// "1 session", "2 sessions", "1,000 sessions".
std::string Counted(int64_t count, const char* noun);

DecodeReport ReportOf(const v1::SparseWriting& written);

// Where an answer looked, a line a source; on stderr, as what is said about answers.
void PrintSources(const v1::AskResponse& answer);
// One line: id, tokens, memory, where it is, what is unfinished.
void PrintSession(const v1::Session& session);
// A table with a heading and a line that adds up.
void PrintSessions(const v1::ListResponse& list);
void PrintPlan(const v1::PlanResponse& plan);
void PrintStats(const v1::StatsResponse& stats);

}  // namespace duo
