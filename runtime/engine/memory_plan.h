// MemoryPlan: where one rank's memory goes, computed before anything is allocated, and printed at start. Refusals carry
// its numbers. Pure functions of plain values.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"

namespace duo {

struct MemoryPlan {
  int64_t device_free = 0;  // before loading
  int64_t weights = 0;
  int64_t peer_shards = 0;    // other ranks' weights, where long chunks are shared out by rows
  int64_t draft_weights = 0;  // of a copy that only guesses
  int64_t draft_model = 0;    // on rank 0: weights, cache and workspace of another model that guesses
  int64_t kv_pages = 0;       // whole and split heads
  int64_t rings = 0;
  int64_t tables = 0;     // and page lists of answers
  int64_t workspace = 0;  // activations and kernel scratch of the largest step
  int64_t reserve = 0;    // left to the driver, libraries and other programs
  int64_t index = 0;      // of the tokens for drafts, on the CPU; beside a GPU it lies in the host's memory, unplanned
  int64_t kv_tokens = 0;  // tokens of retrieval KV that kv_pages holds
  int64_t total() const {
    return weights + peer_shards + draft_weights + draft_model + kv_pages + rings + tables + workspace + index;
  }
};

// One line for people: "weights 15.0 + KV 20.9 (1,200,000 tokens) + rings 0.1 + workspace 1.2 = 37.2 of 79.1 GiB"; of
// what drafts are made by, where there is any, it speaks behind the workspace.
std::string Describe(const MemoryPlan& plan);

// OK when the plan fits device_free - reserve; else RESOURCE_EXHAUSTED with every number and what would help.
absl::Status CheckFits(const MemoryPlan& plan);

}  // namespace duo
