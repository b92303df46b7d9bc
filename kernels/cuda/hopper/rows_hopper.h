// Attention of few rows on Hopper: AttendPages (kernels/attention.h) with one pass over pages that several sequences
// share. A step of 2 to kExactRows rows gives each row the same bits whatever other rows ride with it. (AttendPages
// takes a step of one row to the kernel that is faster for it.) Rows of no sequence get 0. See rows_work.cuh and
// rows_plan.cuh. For the thread that drives the Device.
#pragma once

#include "kernels/attention.h"
#include "kernels/row_cuts.h"

namespace duo::cuda {

// Can this device do steps of so many sequences over such pages?
bool HopperRowsUsable(const Device& device, const PagedKv& kv, int num_seqs);
// The plan of a step, which batch.plans takes.
size_t HopperRowsPlanBytes(int max_rows);
const void* PlanHopperRows(Device& device, const SeqBatch& batch, int group, const PagedKv& kv, Arena& arena);
size_t HopperRowsScratchBytes(const Device& device, int max_rows, int group, const PagedKv& kv, int64_t max_tokens);
void HopperRows(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, Arena& scratch);

}  // namespace duo::cuda
