// Where a row of retrieval heads looks: the mass of its softmax over stretches of keys. CPU and CUDA.
//
// Mass is given as its logarithm before normalisation, log sum exp(q.k / sqrt(d)) over the keys of a page, so that
// pages of several ranks have one measure: a page's share is exp(log mass - lse) with lse the log sum exp over all
// pages, by the algebra by which partial attention merges (attention.h). A page that lies elsewhere, or behind the row,
// has -inf.
//
// There are two ways to them. AttendPagesWithMass leaves them beside the output of a step's only row, whose scores it
// has anyway; PageMass reads K alone once more, for any row. On CUDA both round scores as decode attention does.
//
// Pages must be written (StoreKv), and q be as the attention ops take it. Pointers are device memory; T is f32 on the
// CPU and bf16 on CUDA. Asynchronous on CUDA; allocates nothing.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/attention.h"

namespace duo {

// The query heads of one KV head in one row.
struct MassRow {
  const void* q = nullptr;  // T [group][head_dim], dense
  int group = 1;
  int head = 0;          // the KV head among those of the PagedKv
  int table = 0;         // its sequence's, of the whole-head or the split-head tables
  int64_t position = 0;  // sees keys j <= position, and with a window those it reaches
};
// And where its keys lie. Heads of one call have one group and one head size.
struct MassHead {
  MassRow row;
  PagedKv kv;
};

// out [heads][group][pages] f32: log mass of the sequence's pages 0, 1, .. pages - 1.
void PageMass(Device& device, float* out, std::span<const MassHead> heads, int64_t pages);

// out [heads][group][count][kPageTokens] f32: q.k / sqrt(d) of each key of the pages named; -inf where it is not seen
// or not held here. pages: device [count].
void KeyScores(Device& device, float* out, std::span<const MassHead> heads, const int32_t* pages, int count);

// Which log masses AttendPagesWithMass leaves.
struct MassOut {
  float* logs = nullptr;  // f32 [heads asked, ascending][group][pages][parts]: a page's mass is the sum of its parts'
  int64_t pages = 0;      // of the sequence: those up to the row's own
  uint64_t heads = 0;     // bit h: KV head h of the PagedKv is asked
};
// The parts that a page has there, the same for all steps; 0: these pages are not told apart on the way.
int MassParts(const Device& device, int group, const PagedKv& kv);
// AttendPages of one row, to the same bits. batch.host_spans must be given. Scratch as AttendPages'.
void AttendPagesWithMass(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv,
                         const MassOut& mass, Arena& scratch);

// Log masses, or scores, of query heads.
struct LogMasses {
  const float* logs = nullptr;  // [rows][count][parts]
  int rows = 0;
  int64_t count = 0;
  int parts = 1;
  int64_t stride = 0;  // entries from one row to the next; 0: count
  DUO_HD int64_t row_floats() const { return (stride > 0 ? stride : count) * parts; }
};
// out [rows]: log sum exp of each row; -inf where there is nothing.
void LogSums(Device& device, float* out, const LogMasses& of);
// out [count]: sum over the rows and parts of weights[row] * exp(log - lse[row]). What is below e^-30 counts for
// nothing. lse, weights: device [rows].
void SumShares(Device& device, float* out, const LogMasses& of, const float* lse, const float* weights);

}  // namespace duo
