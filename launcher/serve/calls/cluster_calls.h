// The calls on the server as a whole: what it runs and where, what it has done, and its graceful stop. As unary_call.h
// says; fields and errors as in duo.proto.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "launcher/serve/calls/unary_call.h"
#include "parallel/held_heads.h"
#include "runtime/weights/format_shares.h"

namespace duo {

struct ClusterPlan {
  std::string model, device, kv_format, strategy;
  int world = 0, layers = 0, kv_heads = 0, retrieval_heads = 0, streaming_heads = 0, sink = 0, recent = 0;
  double balance_time = 0, balance_memory = 0;  // of the busiest rank, 1 is perfect
  std::string memory;                           // one line: where a rank's memory goes
  std::vector<FormatShare> weight_formats;
  std::string experts;  // of a mixture on several ranks how its experts lie, "split" or "whole"; else empty
  std::string prefill_split;  // of several ranks what they share out of long chunks, "heads" or "rows"; else empty
  int64_t max_session_tokens = 0, kv_tokens = 0;
  std::vector<HeldHeads> ranks;
};
ClusterPlan PlanOf(const CallContext& context);  // on the engine's thread
UnaryCallPtr StartPlan(CallContext& context, const Caller& caller, Answered<ClusterPlan> finish);

struct ClusterStats {
  double uptime_seconds = 0;
  bool draining = false;
  int64_t calls = 0, refused = 0;  // answered with OK; with any other code
  EngineStats engine;
  SessionsStats sessions;
};
ClusterStats StatsOf(const CallContext& context);  // likewise
UnaryCallPtr StartStats(CallContext& context, const Caller& caller, Answered<ClusterStats> finish);

struct DrainRequest {
  double grace_seconds = 0;  // for running questions; 0: the server's
};
UnaryCallPtr StartDrain(CallContext& context, const Caller& caller, DrainRequest request, Answered<DrainResult> finish);

}  // namespace duo
