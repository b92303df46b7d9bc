// StepPlan: everything that a rank must know to run one step, as one flat value. Rank 0's scheduler makes the plan, the
// communicator broadcasts the plan's bytes, every rank's worker executes it. Followers hold no requests and no
// sessions, only device memory that plans name by number (page ids, tables, rings).
//
// Order of execution: table writes, page copies, ring copies, then the model, then sampling.
// Plain value; thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/attention.h"
#include "kernels/ops.h"
#include "runtime/model/decode_sparsity.h"
#include "runtime/model/prefill_sparsity.h"
#include "runtime/model/row_mass.h"
#include "runtime/model/token_score.h"

namespace duo {

// tables[table][first ...] = ids, in the whole-head or the split-head tables.
struct TableWrite {
  int32_t split = 0;
  int32_t table = 0;
  int32_t first = 0;
  int32_t count = 0;  // of ids, taken in order from StepPlan::table_ids
};
struct IdCopy {
  int32_t split = 0;  // page copies: a split page id or a whole one; unused for rings
  int32_t from = 0;
  int32_t to = 0;
};

// What a sample asks for beyond its SampleParams: only those that ask have one, and only they cost anything.
struct SampleRule {
  int32_t sample = 0;                 // of StepPlan::sample_rows
  int32_t top_k = 0;                  // the draw is from the so many likeliest tokens; 0: all
  float min_p = 0;                    // and from those at least min_p times as likely as the likeliest
  int32_t first_edit = 0, edits = 0;  // of StepPlan::edits
  int32_t mask = -1;                  // first word in StepPlan::masks of those that are allowed; -1: all are
  int32_t scores = -1;                // log-probabilities are wanted: of the chosen token and so many of the best
  int32_t target = -1;                // the chosen token, instead of the drawn one
  bool changes_draw() const { return top_k > 0 || min_p > 0 || edits > 0 || mask >= 0; }
};

// Tokens whose mass a row of mass_samples is asked for.
struct MassRange {
  int32_t row = 0;  // of mass_samples
  TokenRange tokens;
};

// How retrieval heads attend: few rows of any number of sequences straight from the pages, or many rows of one, the
// first of the plan, with which few rows of others may ride.
enum class StepKind : uint8_t { kRows, kPrefill, kCacheUpdates /* no model: only the copies and table writes */ };

struct StepPlan {
  StepKind kind = StepKind::kRows;
  std::vector<TableWrite> table_writes;
  std::vector<int32_t> table_ids;
  std::vector<IdCopy> page_copies;
  std::vector<IdCopy> ring_copies;

  // The model's input, rows of all sequences one after the other.
  std::vector<int32_t> tokens;     // [rows]
  std::vector<int32_t> positions;  // [rows]
  std::vector<int32_t> row_seq;    // [rows]: index into spans
  std::vector<SeqSpan> spans;
  SparseRows sparse;          // of the chunk
  int32_t list_target = 0;    // of sequences that make page lists: share of attention, in thousandths
  int32_t draft_weights = 0;  // 1: all rows guess, by the model's copy of its weights for that

  // Rows whose next token is drawn, and how.
  std::vector<int32_t> sample_rows;
  std::vector<SampleParams> samples;  // as many as sample_rows
  std::vector<SampleRule> rules;      // in ascending order of their samples
  std::vector<LogitEdit> edits;
  std::vector<uint32_t> masks;         // a bit for each token of the vocabulary, whole words for each mask
  std::vector<int32_t> mass_samples;   // of sample_rows, ascending: where these rows looked is wanted
  std::vector<MassRange> mass_ranges;  // in ascending order of their rows
  int32_t want_logits = 0;             // 1: rank 0 also returns the full logits of the sampled rows
};

// What a step gives.
struct StepResult {
  std::vector<int32_t> tokens;     // [samples]
  std::vector<TokenScore> scores;  // [samples], filled for those that ask; empty where none does
  std::vector<float> logits;       // [samples][vocab] on rank 0 when the plan wants them
  std::vector<RowMass> masses;     // [mass_samples]
  SparseAudits audits;             // on rank 0, of the blocks that the plan names
  ChosenLists lists;               // on rank 0, of the sequences that made page lists, in the plan's order
};

std::string Serialize(const StepPlan& plan);
// The reverse. Fails on bytes that no Serialize made (a truncated or foreign message).
absl::StatusOr<StepPlan> ParseStepPlan(std::string_view bytes);

}  // namespace duo
