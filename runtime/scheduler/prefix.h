// Prefixes, as callers see them: what prompts left in the cache, on which others that begin alike go on. Plain values;
// scheduler_prefixes.cc has what is done with them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace duo {

// May a prompt go on where another one's text agrees with it, and be left for others?
struct PrefixUse {
  bool on = false;
  std::string realm;  // whose texts may meet: what is of another realm is never looked at
};

// What of a prompt did not have to be read, because it was in the cache.
struct CachedPrefix {
  enum class From { kNothing, kOpen, kRead };
  From from = From::kNothing;  // an open session or a prefix; a read under way
  int64_t tokens = 0;
  int64_t refed = 0;    // of them, fed again to rebuild rings
  int64_t session = 0;  // the open session (SessionId) that it was; 0: none
};

struct PrefixInfo {
  int64_t id = 0;
  std::string realm;
  int64_t tokens = 0;
  int64_t kv_bytes = 0;         // as a session of its own would have (Engine::KvBytes)
  int64_t hits = 0;             // prompts that went on there
  std::vector<uint32_t> chain;  // of its tokens (token_chain.h)
  double idle_seconds = 0;
};

// Counted since the start.
struct PrefixCounts {
  int64_t queries = 0, hits = 0;             // prompts that started, and those of them that went on somewhere
  int64_t open_tokens = 0, read_tokens = 0;  // that did not have to be read, by where they were
  int64_t refed_tokens = 0, evictions = 0;   // prefixes dropped for room
  double saved_seconds = 0;                  // predicted: of reading, less what rebuilding rings took
};

}  // namespace duo
