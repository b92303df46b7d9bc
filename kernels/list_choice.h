// What a backend does of ChoosePages (decode_lists.h): where a row looked, and the lists that follow from it. CPU and
// CUDA; pointers are device memory, and all is ordered by the device's stream.
#pragma once

#include <cstdint>

#include "kernels/attention_mass.h"
#include "kernels/decode_lists.h"

namespace duo {

// How shares of attention are told apart and added up.
struct ListShare {
  static constexpr int kBins = 2048, kBinsPerNat = 32;
  static constexpr uint32_t kWhole = uint32_t{1}
                                     << 31;  // a share of 1; all of a row's shares add up to less than twice it

  // From a share's logarithm: the share, and the bin that it falls in, larger ones first.
  DUO_HD static uint32_t Of(float log_share) {
    const float share = expf(log_share);
    return share >= 1 ? kWhole : share > 0 ? static_cast<uint32_t>(share * 2147483648.0f) : 0;
  }
  DUO_HD static int Bin(float log_share) {
    const float bin = -kBinsPerNat * log_share;
    return bin >= kBins - 1 ? kBins - 1 : bin > 0 ? static_cast<int>(bin) : 0;
  }
  // What a target in thousandths asks for.
  DUO_HD static uint32_t Wanted(int target) { return kWhole / 1000 * target; }
};

// PageMass of all heads of kv: row.q has those of all query heads, row.head is not looked at. logs [num_heads][group]
// [pages].
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
