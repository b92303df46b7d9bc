// Requests as their callers see them: ids, parameters, events, results, and the counts of what an engine did. Plain
// values; callbacks run on the engine's thread and must not call back into the engine.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "runtime/model/decode_sparsity.h"
#include "runtime/model/row_mass.h"
#include "runtime/model/token_score.h"
#include "runtime/scheduler/prefix.h"
#include "runtime/scheduler/sampling_rules.h"
#include "runtime/scheduler/sparse_read.h"

namespace duo {

using SessionId = int64_t;
using RequestId = int64_t;

// Whose request it is. Callers share places and reading time equally, however many requests each has; among those of
// one caller lower priorities come first, and of equals the older one.
struct Whose {
  std::string caller;  // empty: nobody in particular, who is one caller, too
  int32_t priority = 0;
};

struct GenerateParams {
  int64_t max_new_tokens = 128;  // 0: none is drawn, the prompt is scored only (rules.prompt_scores)
  float temperature = 0;
  float top_p = 1;
  uint64_t seed = 0;
  SamplingRules rules;
  std::vector<int32_t> end_tokens;  // a drawn token of these ends the answer and is not reported
  bool keep = false;                // the question and its answer become part of the session
  bool mass = false;                // on_mass is called; needs EngineOptions::provenance
  // With mass: of which tokens each head's own is wanted, too, in the row that the i-th token is drawn from; those of
  // the last entry also in the rows behind.
  std::vector<std::vector<TokenRange>> mass_ranges;
  bool want_logits = false;  // on_logits is called; for tests, perplexity and debugging
  Whose whose;
  PrefixUse prefix;  // of a question on a session without tokens, which is a whole prompt
};

enum class Finish { kStop, kEos, kLength };  // the callback or a stop token said so; an end token; max_new_tokens
const char* Name(Finish finish);             // "stop", "eos", "length"

struct RequestResult {
  absl::Status status;  // CANCELLED after Cancel or Close
  Finish finish = Finish::kLength;
  int64_t prompt_tokens = 0;   // fed by this request
  CachedPrefix cached;         // the tokens before these
  int64_t new_tokens = 0;      // reported by on_token
  double queue_seconds = 0;    // until its first step
  double prefill_seconds = 0;  // from its first step to its last prompt token
  double decode_seconds = 0;   // from then to its last new token
  // Of its answer: the steps that tokens were drawn in, the drafts that were checked in them, and those that were
  // right. Where there are no drafts a step gives one token.
  int64_t draw_steps = 0, drafted_tokens = 0, accepted_tokens = 0;
  int64_t guess_steps = 0;  // steps beside these, that drew drafts
  SparseReport sparse;      // of all of its sequence, how it was read
  DecodeReport decode;      // how its answer was written
};

struct RequestEvents {
  std::function<void(const CachedPrefix&)> on_start;             // of a question: it has its place
  std::function<void(int64_t done, int64_t total)> on_progress;  // prompt tokens fed
  std::function<bool(int32_t token)> on_token;                   // false ends the answer (Finish::kStop)
  // Before each token that is drawn: sets the words of what may be drawn, a bit for each token of the vocabulary; left
  // empty, all may. An error ends the request with it.
  std::function<absl::Status(std::vector<uint32_t>* mask)> allow;
  // Asked before each step that would add to the answer: true leaves it out of the step, and others go on. It keeps its
  // place and its room; whoever is behind the answer wakes the engine's thread when it may go on, or cancels it.
  std::function<bool()> pause;
  std::function<void(const TokenScore&)> on_score;         // rules.scores: before each on_token
  std::function<void(const TokenScore&)> on_prompt_score;  // rules.prompt_scores: of each prompt token but the first
  std::function<void(const RowMass&)> on_mass;  // before each on_token: where the row looked that it was drawn from
  // [vocab]. Of a question: before each on_token, if wanted. Of an append, which needs EngineOptions::append_logits: of
  // what follows each token fed, in order.
  std::function<void(const std::vector<float>& logits)> on_logits;
  std::function<void(const RequestResult&)> on_done;  // always called once
};

struct SessionInfo {
  SessionId id = 0;
  int64_t tokens = 0;  // in the KV cache
  int64_t max_tokens = 0;
  int64_t reserved_tokens = 0;  // that it has room for, whatever other sessions do
  int64_t kv_bytes = 0;         // over all ranks, without page rounding (SessionKvBytes)
  int pending_requests = 0;
  SparseReport sparse;        // how its text was read
  int standing_requests = 0;  // of these, those that it must stand still for: that extend it or have no fork of it yet
};

struct EngineStats {
  int64_t steps = 0, prefill_tokens = 0, decode_tokens = 0;
  int64_t draw_steps = 0, drafted_tokens = 0, accepted_tokens = 0;  // of all answers, as RequestResult has them
  int64_t guess_steps = 0;
  DecodeReport decode;                                     // of all answers
  int64_t pages = 0, pages_free = 0, pages_available = 0;  // whole-head page ids; available = neither used nor promised
  int64_t split_pages = 0, split_pages_free = 0;
  int rings = 0, rings_free = 0;
  int sessions = 0, running = 0, waiting = 0;  // requests
  int prefixes = 0;                            // with rings and pages of their own
  PrefixCounts prefix;
  double busy_seconds = 0;  // spent in steps
  double last_step_seconds = 0;
  double predicted_wait = 0;  // seconds until one of the requests is done, if all go on as they do now; 0: none pend
  bool last_step_prefill = false;  // a chunk of one long text was in it
  // Of the last step.
  int64_t last_step_chunk = 0;  // tokens of the chunk
  int last_step_batch = 0;      // sequences
  int last_step_answers = 0;    // of them, those whose callers wait for a token
  double last_step_rows = 0;    // seconds predicted without the chunk
  double max_gap = 0;           // that the scheduler keeps
};

}  // namespace duo
