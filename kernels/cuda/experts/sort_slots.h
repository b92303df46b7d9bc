// The slots of many rows sorted by expert, on the device, so that no host waits for the router; cut into tiles that one
// block multiplies. A slot is a row's j-th expert: row * chosen + j.
#pragma once

#include "kernels/experts.h"

namespace duo::cuda {

constexpr int kSortedRows = 256;   // slots of a tile, at most
constexpr int kSortedPadded = 16;  // tiles begin at multiples of these, which swizzled rows and copies ask for

// Slots of one expert at places [first, first + rows).
struct SortedTile {
  int expert, first, rows;
  // As many as a tile's rows have room for.
  DUO_HD int padded() const { return (rows + kSortedPadded - 1) / kSortedPadded * kSortedPadded; }
};
// In device memory. Tiles are in the order of their places, experts ascend, and an expert's slots ascend; places that
// are in no tile belong to nobody.
struct SortedSlots {
  SortedTile* tiles;  // [MostTiles]
  int32_t* count;     // of tiles
  int32_t* slots;     // [MostPlaces]
  int32_t* places;    // [rows * chosen]: of each slot whose expert is here
};
// Experts that are here of a layer's, where not all are.
struct ExpertRun {
  int first, count;
  DUO_HD bool Has(int expert) const { return expert >= first && expert < first + count; }
};
int64_t MostTiles(int64_t slots, int experts);
int64_t MostPlaces(int64_t slots, int experts);
size_t SortSlotsScratchBytes(int64_t slots, int experts);
// Takes its lists from scratch. Slots whose expert is not in `run` are left out, and their places mean nothing.
SortedSlots SortSlots(Device& device, const Routing& routing, int64_t rows, ExpertRun run, Arena& scratch);

}  // namespace duo::cuda
