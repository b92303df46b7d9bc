// The server as its operator looks at it, at one moment: plan and numbers, memory by class, and what belongs to the
// caller: sessions, calls, refusals. As unary_call.h says.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "launcher/serve/calls/cluster_calls.h"

namespace duo {

// Where a KV head's cache is.
struct HeadPlace {
  bool retrieval = false;
  std::vector<std::pair<int, double>> ranks;  // rank, its share; one entry unless the head is split
};

// What is known of where a KV head looks: shares of attention, 0 to 1.
struct HeadAttention {
  int layer = 0, head = 0;
  std::optional<double> weight;  // its part among the heads that answers' sources are read from
  std::optional<double> text;    // on the session's text when an answer begins: the mean of the last ones with sources
  std::optional<double> kept;  // of what dense reading would see, by audits of the open sessions that are read sparsely
};

struct MemoryClass {
  std::string name;            // "retrieval", "retrieval_split", "streaming"
  int64_t used = 0, room = 0;  // bytes over all ranks
};

struct ServerView {
  Identity who;            // the caller
  bool everybody = false;  // all owners' sessions, calls and refusals are in it
  ClusterPlan plan;
  ClusterStats stats;
  std::vector<int64_t> rank_kv_bytes;  // in use
  std::vector<MemoryClass> memory;
  std::vector<SessionView> sessions;
  std::vector<CallNow> calls;
  std::vector<RefusedCall> refused;
  std::vector<AnswerTimes> answered;          // of everybody: times alone
  std::vector<std::vector<HeadPlace>> heads;  // [layer][KV head]; only where asked for
  std::vector<HeadAttention> attention;       // of heads of which something is known, in order
};

// A caller of role metrics sees numbers alone, a user what is theirs, an admin everything.
UnaryCallPtr StartView(CallContext& context, const Caller& caller, bool with_heads, const Answered<ServerView>& finish);

}  // namespace duo
