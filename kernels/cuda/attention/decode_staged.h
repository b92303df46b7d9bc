// Decode attention of up to eight columns on Hopper, whose codes pass through shared memory (decode_staged.cuh), and
// which may attend a step's streaming heads besides.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/attention/decode_segment.cuh"
#include "kernels/cuda/attention/streaming_few.cuh"

namespace duo::cuda {

// Can streaming heads of these rows be attended, and their rings stored, by the blocks of that kernel?
bool StreamsInStaged(const Device& device, const StepRows& rows, const PagedKv& kv, const RingKv& ring);

// Tokens of that kernel's units, and of the parts of a page whose masses it keeps.
struct StagedTokens {
  int unit, part;
};
StagedTokens StagedTokensOf(const PageLayout& page);

// What streaming heads take of a block's time, in units of pages.
WorkBeside StagedWorkBeside(const PagedKv& kv, int blocks);

// The partials of args by `grid` blocks; a head's mass where args.mass asks, and args.beside.blocks blocks of
// `streaming`, one for each sequence and head.
void LaunchStaged(Device& device, const DecodeArgs& args, const StreamingArgs& streaming, bool listed, int grid);

}  // namespace duo::cuda
