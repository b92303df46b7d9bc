// What page lists leave out, measured: one block of queries attends to everything, in parts that lists of growing
// density add to each other, so that the true share of attention of each is known exactly. CPU and CUDA.
//
// mass = share of a row's softmax that falls on the pages of its list and on the block's own page, by the exact scores
// of all keys; its mean over the block's rows and the query heads of the KV head. error = |o - o_dense| / |o_dense| of
// the rows' results together. Costs about what attending the block densely costs.
#pragma once

#include <array>

#include "kernels/page_lists.h"

namespace duo {

constexpr int kMostRungs = 8;

// The densities that are measured, ascending, in thousandths, all below kDense.
struct AuditRungs {
  int count = 0;
  std::array<int32_t, kMostRungs> density = {};
};

// Of one KV head.
struct PageAudit {
  std::array<double, kMostRungs> mass = {};  // [rungs]
  double error = 0;                          // at the head's own density
};

// rows: one block. audits: host [kv.num_heads]. densities: host [kv.num_heads], each a rung or kDense. Waits for the
// device.
size_t AuditPagesScratchBytes(const Device& device, int group, const PagedKv& kv, int q_cols, int64_t max_tokens);
void AuditPages(Device& device, PageAudit* audits, const StepRows& rows, const PagedKv& kv, const PooledKeys& pooled,
                const ListRule& rule, const AuditRungs& rungs, const int32_t* densities, Arena& scratch);

}  // namespace duo
