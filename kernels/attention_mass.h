// Where a row of a retrieval head looks: the mass of its softmax over stretches of keys. Beside the attention ops,
// which do not give it: these read K alone, once more, and cost nothing where nobody asks. CPU and CUDA.
//
// Mass is given as its logarithm before normalisation, log sum exp(q.k / sqrt(d)) over the keys of a page, so that
// pages of several ranks have one measure: a page's share is exp(log mass - lse) with lse the log sum exp over all
// pages, by the algebra by which partial attention merges (attention.h). A page that lies elsewhere, or behind the row,
// has -inf.
//
// Pages must be written (StoreKv), and q be as the attention ops take it. Pointers are device memory; T is f32 on the
// CPU and bf16 on CUDA. Asynchronous on CUDA; allocates nothing.
#pragma once

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

// out [group][pages] f32: log mass of the sequence's pages 0, 1, .. pages - 1.
void PageMass(Device& device, float* out, const MassRow& row, const PagedKv& kv, int64_t pages);

// out [group][count][kPageTokens] f32: q.k / sqrt(d) of each key of the pages named; -inf where it is not seen or not
// held here. pages: device [count].
void KeyScores(Device& device, float* out, const MassRow& row, const PagedKv& kv, const int32_t* pages, int count);

}  // namespace duo
