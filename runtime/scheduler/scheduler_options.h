// What a Scheduler is to be: sizes, limits, first guesses at what steps take. Plain values, which the engine works out
// (runtime/engine/engine_setup.cc).
#pragma once

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/list_ends.h"
#include "runtime/drafts/model_guesses.h"
#include "runtime/files/token_chain.h"
#include "runtime/model/decode_sparsity.h"
#include "runtime/scheduler/sparse_read.h"

namespace duo {

struct SchedulerOptions {
  int chunk = 1024;                  // tokens of a prefill step at most
  double max_wait = 0.5;             // seconds
  double max_gap = 0.05;             // seconds
  int max_batch = 16;                // sequences of a rows step
  int max_rows = 128;                // rows of a step, besides a chunk, which may be as few as rows are itself
  int max_samples = kMaxDecodeRows;  // rows of a step whose logits are held
  int64_t refeed = 0;  // tokens before a position that rebuild its rings: layers * recent; 0 without streaming heads
  int sessions = 1;    // open at once
  int questions = 16;  // running at once on forks; more wait
  int64_t max_pending = 1024;  // requests waiting or running
  int prefixes = 0;            // kept at once; each has a table and rings
  int64_t prefix_least = 32;   // tokens of one, and of what is gone on with
  // Tokens that are read behind which a prompt leaves a prefix before its last token, too, which takes a step more.
  int64_t prefix_stop = 2 * kChainTokens;
  double page_bytes = 1, split_page_bytes = 1, ring_bytes = 1;  // of a page id and a ring set, to compare prefixes
  // For the first prediction of a chunk's time; measured afterwards.
  double flop_per_token = 0;       // dense work of one row
  double flop_per_token_pair = 0;  // attention of one row to one token of history
  double flop_rate = 1e11;         // FLOP/s, a guess
  double rider_factor = 1;         // ChunkTime::Rates has it
  bool measured = true;            // false: what steps take stays a guess, and choices follow from the calls alone
  // Drafts of an answer in a step, at most, as many as its rings have slack for; 0: none. row_cost: StepCosts has it.
  int drafts = 0;
  double row_cost = 0.15;
  // On GPUs: drafts ride with no other sequence, in steps of up to kAlikeRows rows whose positions lie in one page.
  // There a row has the bits that it has alone (alike_rows.h).
  bool checks_alone = false;
  // They also come from rows that visit the lists of `decode`, which no answer is written by then, or the ends alone.
  bool guesses = false;
  ModelGuesses model_guesses;    // drafts also come from another model; empty: they do not
  double guess_read_cost = 0.5;  // what a token costs that it reads, in guesses
  bool draft_weights = false;    // guesses are by a copy of the weights, which is cheap where all is seen, too
  // How long texts are read, and how many heads a model has: layers * KV heads. Where it is on, prompts share nothing:
  // each would otherwise depend on what was there before it.
  PrefillSparsity sparsity;
  int heads = 0, kv_heads = 1;                    // kv_heads: of a layer
  DecodeSparsity decode;                          // how answers are written
  int lists = 0;                                  // answers that have page lists at once
  int list_pages = DecodeListRule::kFewestPages;  // shorter sequences have none
  // Sequences of which guesses may see the ends alone: of whose pages these are not more than half.
  int ends_pages = 2 * (DecodeListRule::kSinkPages + DecodeListRule::kLastPages);
};

}  // namespace duo
