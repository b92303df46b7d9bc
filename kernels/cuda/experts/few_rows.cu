// Few rows of a mixture: which kernels do them. A product is group_tiles.h's, few_rows_pieces.h's or
// few_rows_tiles.cuh's by what its codes are, and few_rows.cuh's otherwise.
#include <algorithm>

#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/cuda/experts/few_rows.h"
#include "kernels/cuda/experts/few_rows_pieces.h"
#include "kernels/cuda/experts/few_rows_tiles.cuh"
#include "kernels/cuda/experts/group_tiles.h"
#include "kernels/cuda/experts/sum_before.cuh"

namespace duo::cuda {
namespace {

// One block: a thread an expert counts its slots, then writes them behind those of the experts before it. Those of
// experts that are elsewhere are left out.
__global__ void __launch_bounds__(kMostExperts) SortSlotsKernel(SlotLists lists, const int32_t* chosen, int slots) {
  StartOverlapped();
  constexpr int kAtOnce = 1024;
  __shared__ int some[kAtOnce], of_warps[2][32];
  const int expert = threadIdx.x, wanted = expert < lists.experts ? lists.first + expert : -1;
  // what(slot) for each slot of the thread's expert: slots come to shared memory in pieces, for all to look at.
  const auto each = [&](const auto& what) {
    for (int first = 0; first < slots; first += kAtOnce) {
      const int here = min(kAtOnce, slots - first);
      __syncthreads();
      for (int i = threadIdx.x; i < here; i += blockDim.x) some[i] = chosen[first + i];
      __syncthreads();
#pragma unroll 8
      for (int i = 0; i < here; ++i) {
        if (some[i] == wanted) what(first + i);
      }
    }
  };
  int count = 0, first_slot = 0;
  each([&](int s) {
    if (count++ == 0) first_slot = s;
  });
  int all_slots, all_chosen;
  const int begin = SumBefore(count, of_warps[0], &all_slots);
  const int place = SumBefore(count > 0 ? 1 : 0, of_warps[1], &all_chosen);
  for (int none = all_chosen + expert; none < lists.most; none += blockDim.x) lists.chosen[none].expert = -1;
  if (threadIdx.x == 0) *lists.count = all_chosen;
  if (count > 0) lists.chosen[place] = {expert, begin, begin + count, first_slot};
  int at = begin;
  each([&](int s) { lists.slots[at++] = s; });
}

// Columns of a piece: whether a product's weights can be read in pieces. What else is not few_rows_pieces.h's is read
// value by value.
bool InPieces(const ExpertProduct& p, int columns) {
  const bool plain_groups = (p.bank.block == 0 || HasScaleBlocks(p.bank)) && p.bank.table == CodeTable::kNone &&
                            (p.bank.dtype != DType::kI8 || p.bank.group == 0);
  return plain_groups && p.bank.cols % columns == 0 && p.x_stride % 8 == 0 &&
         reinterpret_cast<uintptr_t>(p.x) % 16 == 0 && reinterpret_cast<uintptr_t>(p.bank.data) % 16 == 0;
}

// launch(type, in pieces, slots that a warp takes at once, fp8 in blocks) for the product's kind, as constants.
template <typename Launch>
void ForKind(const ExpertProduct& p, int64_t slots, int64_t rows, const Launch& launch) {
  auto of_pieces = [&](auto type, auto pieces, auto blocks) {
    if (rows == 1) {
      launch(type, pieces, std::integral_constant<int, 1>(), blocks);
    } else if (slots <= 2 * p.experts) {
      launch(type, pieces, std::integral_constant<int, 2>(), blocks);
    } else {
      launch(type, pieces, std::integral_constant<int, 4>(), blocks);
    }
  };
  auto of_type = [&](auto type) {
    if (InPieces(p, PieceColumns<type()>())) {
      if constexpr (type() == DType::kF8E4M3) {
        if (HasScaleBlocks(p.bank)) return of_pieces(type, std::true_type(), std::true_type());
      }
      of_pieces(type, std::true_type(), std::false_type());
    } else {
      of_pieces(type, std::false_type(), std::false_type());
    }
  };
  switch (p.bank.dtype) {
    case DType::kF16:
      return of_type(std::integral_constant<DType, DType::kF16>());
    case DType::kF8E4M3:
      return of_type(std::integral_constant<DType, DType::kF8E4M3>());
    case DType::kI8:
      return of_type(std::integral_constant<DType, DType::kI8>());
    case DType::kI4:
      return of_type(std::integral_constant<DType, DType::kI4>());
    default:
      DUO_CHECK_MSG(p.bank.dtype == DType::kBF16, Name(p.bank.dtype));
      return of_type(std::integral_constant<DType, DType::kBF16>());
  }
}

// Of a warp so many columns, of so many experts.
dim3 GridOf(int64_t columns, int of_warp, int experts) {
  return dim3(static_cast<unsigned>(CeilDiv<int64_t>(columns, kExpertWarps * of_warp)), static_cast<unsigned>(experts));
}

// Whether few_rows_tiles.cuh does a product: those whose x fits shared memory.
bool InTiles(const ExpertProduct& p) {
  const Weight& w = p.bank;
  const bool groups = w.table == CodeTable::kNone && (w.group == 32 || w.group == 64 || w.group == 128);
  const bool powers = w.table == CodeTable::kE2M1 && w.group == 32;
  return w.dtype == DType::kI4 && w.block == 0 && w.cols > 0 && (groups || powers) && p.x_stride % 8 == 0 &&
         reinterpret_cast<uintptr_t>(p.x) % 16 == 0 && reinterpret_cast<uintptr_t>(w.data) % 16 == 0 &&
         w.rows * w.cols < int64_t{1} << 34 &&  // TilePlace
         SharedSlots::Bytes(w.cols, w.group, 1) <= kTileShared;
}

// shared: what depends on the product; above 48 KB it has to be asked for.
template <typename... Parameters, typename... Arguments>
void LaunchTiles(const Device& device, void (*kernel)(Parameters...), dim3 grid, size_t shared,
                 Arguments... arguments) {
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  LaunchOverlapped(device, kernel, grid, dim3(32 * kExpertWarps), shared, arguments...);
}

// How a product of the lists is done, `of_tile` outputs of `outputs` a tile, and the shared memory for it.
TileWork WorkOf(const ExpertProduct& p, int64_t outputs, int of_tile, size_t* shared) {
  const size_t one = SharedSlots::Bytes(p.bank.cols, p.bank.group, 1);
  const bool single = p.lists.of_one_row != nullptr;
  const int at_once = single ? 1 : static_cast<int>(std::min<size_t>(kTileSlots, kTileShared / one));
  const int parts = TileParts(p.bank.cols);
  *shared = one * at_once;
  return {parts, at_once, static_cast<int>(CeilDiv(CeilDiv<int64_t>(outputs, of_tile), int64_t{kExpertWarps / parts}))};
}
// As many blocks as run at once, two on a multiprocessor, but no more than there can be units.
dim3 GridOfTiles(const Device& device, const TileWork& work, int experts) {
  const int64_t units = int64_t{work.units} * experts;
  return dim3(static_cast<unsigned>(std::min<int64_t>(units, int64_t{device.info().multiprocessors} * 2)));
}

void GateUpFew(Device& device, bf16* product, const ExpertProduct& up, int64_t slots, int64_t rows,
               const Gating& gating) {
  const int64_t n = up.bank.rows / up.experts / 2;
  if (n == 0) return;
  if (up.lists.of_one_row == nullptr && InExpertGroups(device, up, true)) {
    return GroupGateUp(device, product, up, gating);
  }
  if (InExpertPieces(up)) return PieceGateUp(device, product, up, gating);
  if (!InTiles(up)) {
    return ForKind(up, slots, rows, [&](auto type, auto pieces, auto at_once, auto blocks) {
      LaunchOverlapped(device, GateUpKernel<type(), pieces(), at_once(), blocks()>,
                       GridOf(n, kUpColumns, up.lists.most), dim3(32 * kExpertWarps), 0, product, up, gating);
    });
  }
  size_t shared = 0;
  const TileWork work = WorkOf(up, n, kTileOutputs / 2, &shared);
  ForCodes(up.bank, [&](auto codes) {
    if (up.lists.of_one_row != nullptr) {
      LaunchTiles(device, TileGateUpKernel<decltype(codes), true>,
                  dim3(static_cast<unsigned>(work.units * up.lists.most)), shared, product, up, gating, work);
    } else {
      LaunchTiles(device, TileGateUpKernel<decltype(codes), false>, GridOfTiles(device, work, up.lists.most), shared,
                  product, up, gating, work);
    }
  });
}

// y [slots][dim]. early: the kernel ahead is one of gate and up that has waited for the lists.
void DownFew(Device& device, float* y, const ExpertProduct& down, int64_t slots, int64_t rows, bool early) {
  const int64_t dim = down.bank.rows / down.experts;
  if (down.lists.of_one_row == nullptr && InExpertGroups(device, down, false)) return GroupDown(device, y, down, early);
  if (InExpertPieces(down)) return PieceDown(device, y, down, early);
  if (!InTiles(down)) {
    return ForKind(down, slots, rows, [&](auto type, auto pieces, auto at_once, auto blocks) {
      LaunchOverlapped(device, DownKernel<type(), pieces(), at_once(), blocks()>,
                       GridOf(dim, kDownColumns, down.lists.most), dim3(32 * kExpertWarps), 0, y, down);
    });
  }
  size_t shared = 0;
  const TileWork work = WorkOf(down, dim, kTileOutputs, &shared);
  ForCodes(down.bank, [&](auto codes) {
    LaunchTiles(device, TileDownKernel<decltype(codes)>, GridOfTiles(device, work, down.lists.most), shared, y, down,
                work, early);
  });
}

// Shared memory with which one row's experts' outputs are added up in the launch that makes them.
size_t OneRowShared(const ExpertProduct& down, int chosen) {
  return SharedSlots::Bytes(down.bank.cols, down.bank.group, chosen) +
         sizeof(float) * kTileOutputs * chosen * TileParts(down.bank.cols);
}
bool FitsOneRow(const ExpertProduct& down, int chosen) {
  if (InExpertPieces(down)) return PieceDownFitsOneRow(down, chosen);
  return InTiles(down) && OneRowShared(down, chosen) <= kTileShared;
}
void DownOneRow(Device& device, View out, const ExpertProduct& down, const Routing& routing, bool partial, bool early) {
  if (InExpertPieces(down)) return PieceDownOneRow(device, out, down, routing, early);
  ForCodes(down.bank, [&](auto codes) {
    LaunchTiles(device,
                partial ? TileDownOneRowKernel<decltype(codes), true> : TileDownOneRowKernel<decltype(codes), false>,
                dim3(static_cast<unsigned>(CeilDiv(out.cols, kTileOutputs))), OneRowShared(down, routing.chosen),
                out.as<bf16>(), down, routing, TileParts(down.bank.cols), early);
  });
}

}  // namespace

size_t FewRowsScratchBytes(int64_t rows, const ExpertBank& bank, int chosen) {
  const int64_t dim = bank.gate_up.cols, n = bank.down.cols, slots = rows * chosen;
  const size_t lists = Arena::Rounded(sizeof(ChosenExpert) * std::min<int64_t>(bank.experts, slots)) +
                       Arena::Rounded(sizeof(int32_t) * (slots + 1));
  return lists + Arena::Rounded(sizeof(bf16) * slots * n) + Arena::Rounded(sizeof(float) * slots * dim);
}

void FewRows(Device& device, View out, View x, const ExpertBank& bank, const Routing& routing, Arena& scratch) {
  const int slots = static_cast<int>(x.rows) * routing.chosen;
  const int64_t n = bank.down.cols;
  const int chosen = std::min(bank.experts, slots);  // at most
  ExpertProduct up = {x.as<bf16>(), x.stride, routing.chosen, bank.gate_up, bank.experts, {}};
  ExpertProduct down = {nullptr, n, 1, bank.down, bank.experts, {}};
  const bool in_groups = x.rows == 1 && !bank.partial() && GroupsFitOneRow(device, up, down, routing.chosen);
  // Kernels of pieces know of one row's slots only those whose expert is here: where others are elsewhere they get
  // lists.
  const bool sorted = bank.partial() && (InExpertPieces(up) || InExpertPieces(down));
  const bool one_launch = x.rows == 1 && !sorted && (in_groups || FitsOneRow(down, routing.chosen));
  SlotLists lists = {};
  lists.first = bank.first;
  lists.experts = bank.experts;
  // Tiles from lists know no slots whose expert is elsewhere.
  const bool of_one_row = x.rows == 1 && !sorted && (one_launch || !bank.partial() || !InTiles(down));
  if (of_one_row) {
    lists.of_one_row = routing.experts;
    lists.most = slots;
  } else {
    lists.chosen = static_cast<ChosenExpert*>(scratch.Take(sizeof(ChosenExpert) * chosen));
    lists.slots = static_cast<int32_t*>(scratch.Take(sizeof(int32_t) * (slots + 1)));
    lists.count = lists.slots + slots;
    lists.most = chosen;
    LaunchOverlapped(device, SortSlotsKernel, dim3(1), dim3(RoundUp(bank.experts, 32)), 0, lists, routing.experts,
                     slots);
  }
  auto* product = static_cast<bf16*>(scratch.Take(sizeof(bf16) * slots * n));
  auto* y = static_cast<float*>(scratch.Take(sizeof(float) * slots * x.cols));
  up.lists = down.lists = lists;
  down.x = product;
  if (in_groups) {
    GroupGateUpOneRow(device, product, up, {bank.limit, bank.alpha});
    return GroupDownOneRow(device, out, down, routing);
  }
  const bool early = n > 0 && (InExpertPieces(up) || InTiles(up));
  GateUpFew(device, product, up, slots, x.rows, {bank.limit, bank.alpha});
  if (one_launch) return DownOneRow(device, out, down, routing, bank.partial(), early);
  DownFew(device, y, down, slots, x.rows, early);
  CombineSlots(device, out, y, bank, routing, nullptr);
}

}  // namespace duo::cuda
