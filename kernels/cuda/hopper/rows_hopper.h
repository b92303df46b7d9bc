// Attention of few rows on Hopper: AttendPages (kernels/attention.h) over bf16 pages, with one pass over pages that
// several sequences share. A step of 2 to kExactRows rows gives each row the same bits whatever other rows ride with
// it. (AttendPages takes a step of one row to the kernel that is faster for it.) Rows of no sequence get 0. See
// rows_hopper.cuh and rows_plan.cuh. For the thread that drives the Device.
#pragma once

#include "kernels/attention.h"

namespace duo::cuda {

constexpr int kExactRows = 16;

// Can this device do steps of so many sequences over such pages?
bool HopperRowsUsable(const Device& device, const PagedKv& kv, int num_seqs);
size_t HopperRowsScratchBytes(const Device& device, int max_rows, int group, const PagedKv& kv, int64_t max_tokens);
void HopperRows(Device& device, View out, float* lse, View qkv, const HeadShape& shape, const SeqBatch& batch,
                const PagedKv& kv, Arena& scratch);

}  // namespace duo::cuda
