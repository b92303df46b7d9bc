// Attention over pages of a step in which one sequence alone checks drafts, on Hopper: 2 to kAlikeRows rows, each of
// which gets the bits that it has in a step of its own (attn_staged.cu), as long as the positions of all lie in one
// page. Keys are cut for one row, units go to warps as one row's do, and of no column does anything depend on another.
#pragma once

#include "kernels/alike_rows.h"
#include "kernels/attention.h"
#include "kernels/cuda/attention/decode_segment.cuh"
#include "kernels/cuda/attention/streaming_few.cuh"

namespace duo::cuda {

bool AttendsCheck(const Device& device, const SeqBatch& batch, int group, const PagedKv& kv);

// Rows times group columns of partial results in each of the slots that one row's items have, then their merge. Its
// blocks first attend to the rows' streaming heads and store their rings, where `streaming` is not null.
void LaunchCheck(Device& device, const DecodeArgs& args, const StreamingArgs* streaming, int grid);

}  // namespace duo::cuda
