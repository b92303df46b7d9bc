// Prefill attention of retrieval heads on Hopper: the history is read from bf16 pages in place, the step's own keys
// from qkv, in one launch for any number of rows; coded pages pass through a staging of fixed size. See
// prefill_work.cuh. For the thread that drives the Device.
#pragma once

#include "kernels/attention.h"
#include "kernels/page_lists.h"

namespace duo::cuda {

// Can this device attend to such pages with it?
bool HopperPrefillUsable(const Device& device, const PageLayout& page);
// Of scratch, whatever the history: partial results of what is cut into runs of keys and, with coded pages, a staging
// of at most 64 MB and the running sums of at most 8,192 rows.
size_t HopperPrefillScratchBytes(const Device& device, int rows, int group, const PagedKv& kv, int64_t max_tokens);
// AttendPrefill (kernels/attention.h), whole.
void HopperPrefill(Device& device, View out, float* lse, View qkv, const HeadShape& shape, const SeqBatch& batch,
                   const PagedKv& kv, bool own_square, Arena& scratch);

// AttendPageLists (kernels/page_lists.h), whole; its scratch is HopperPrefillScratchBytes.
void HopperListedPrefill(Device& device, View out, float* lse, const StepRows& rows, const PagedKv& kv,
                         const PageLists& lists, Arena& scratch);

}  // namespace duo::cuda
