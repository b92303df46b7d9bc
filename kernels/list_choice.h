// What a backend does of ChoosePages (decode_lists.h): where a row looked, and the lists that follow from it. CPU and
// CUDA; pointers are device memory, and all is ordered by the device's stream.
#pragma once

#include <cstdint>

#include "kernels/attention_mass.h"
#include "kernels/decode_lists.h"

namespace duo {

// PageMass of all heads of kv: row.q has those of all query heads, row.head is not looked at. logs [num_heads][group]
// [pages]. On CUDA the scores are rounded as decode attention's are.
void PageMassOfHeads(Device& device, float* logs, const MassRow& row, const PagedKv& kv, int64_t pages);
// Lists from the log masses of one sequence's pages.
struct ListChoice {
  int slot = 0, group = 1;
  int32_t pages = 0;   // of the sequence, the one being filled included; at least DecodeListRule::kFewestPages
  int target = 980;    // in thousandths
  bool again = false;  // there is a list already: what it kept is measured
};
size_t ChooseListsScratchBytes(const Device& device, const DecodeLists& lists, int64_t max_tokens);
// logs [num_heads][group][pages] f32 device.
void ChooseLists(Device& device, const DecodeLists& lists, const ListChoice& choice, const float* logs, Arena& scratch);

}  // namespace duo
