#include <algorithm>

#include "kernels/base/cuda_check.h"
#include "kernels/cuda/experts/few_rows_pieces.cuh"
#include "kernels/cuda/experts/few_rows_pieces.h"

namespace duo::cuda {
namespace {

template <typename Launch>
void ForKind(const Weight& w, const Launch& launch) {
  const bool two = w.block > 0;
  if (w.table == CodeTable::kIq4) {
    return two ? launch(PieceKind<DType::kI4, true, CodeTable::kIq4>())
               : launch(PieceKind<DType::kI4, false, CodeTable::kIq4>());
  }
  if (w.dtype == DType::kI4) {
    DUO_CHECK(two);
    return launch(PieceKind<DType::kI4, true>());
  }
  two ? launch(PieceKind<DType::kI8, true>()) : launch(PieceKind<DType::kI8, false>());
}

int PartsOf(const Weight& w) {
  return PieceParts(static_cast<int>(CeilDiv<int64_t>(w.cols, w.dtype == DType::kI4 ? 128 : 64)));
}

size_t SharedFor(const Weight& w, int rows, int stages) {
  const int parts = PartsOf(w);
  return w.dtype == DType::kI4 ? PieceShare<PieceKind<DType::kI4, true>>::Bytes(w.cols, parts, rows, stages)
                               : PieceShare<PieceKind<DType::kI8, true>>::Bytes(w.cols, parts, rows, stages);
}

TileWork WorkOf(const ExpertProduct& p, int64_t outputs, int of_tile, int at_once) {
  const int parts = PartsOf(p.bank);
  const auto tiles = CeilDiv<int64_t>(outputs, of_tile);
  return {parts, at_once, static_cast<int>(CeilDiv(tiles, int64_t{kExpertWarps / parts}))};
}

template <typename... Parameters, typename... Arguments>
void LaunchWith(const Device& device, void (*kernel)(Parameters...), int64_t blocks, size_t shared,
                Arguments... arguments) {
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  LaunchOverlapped(device, kernel, dim3(static_cast<unsigned>(blocks)), dim3(32 * kExpertWarps), shared, arguments...);
}
// As many blocks as run at once, two on a multiprocessor, but no more than there can be units.
int64_t BlocksFor(const Device& device, const TileWork& work, int experts) {
  return std::min(int64_t{work.units} * experts, int64_t{device.info().multiprocessors} * 2);
}

size_t SharedOfOneRow(const ExpertProduct& down, int chosen) {
  const int jobs = chosen * PartsOf(down.bank);
  return SharedFor(down.bank, 1, jobs) + sizeof(float) * (RoundUp(jobs, 4) + size_t{kTileOutputs} * jobs);
}

}  // namespace

bool InExpertPieces(const ExpertProduct& p) {
  const Weight& w = p.bank;
  // Those are few_rows_tiles.cuh's.
  const bool plain = w.dtype == DType::kI4 && w.block == 0 && w.table != CodeTable::kIq4;
  return !plain && HasPieces(w) && p.x_stride % 8 == 0 && reinterpret_cast<uintptr_t>(p.x) % 16 == 0 &&
         SharedFor(w, kPieceSlots, kExpertWarps) <= kTileShared;
}

void PieceGateUp(Device& device, bf16* product, const ExpertProduct& up, const Gating& gating) {
  const int at_once = up.lists.of_one_row != nullptr ? 1 : kPieceSlots;
  const TileWork work = WorkOf(up, up.bank.rows / up.experts / 2, kTileOutputs / 2, at_once);
  const size_t shared = SharedFor(up.bank, at_once, kExpertWarps);
  ForKind(up.bank, [&](auto kind) {
    using Kind = decltype(kind);
    const auto kernel = at_once == 1 ? PieceGateUpKernel<Kind, 1> : PieceGateUpKernel<Kind, kPieceSlots>;
    LaunchWith(device, kernel, BlocksFor(device, work, up.lists.most), shared, product, up, PiecesOf(up.bank), gating,
               work);
  });
}

void PieceDown(Device& device, float* y, const ExpertProduct& down, bool early) {
  const TileWork work = WorkOf(down, down.bank.rows / down.experts, kTileOutputs, kPieceSlots);
  const size_t shared = SharedFor(down.bank, kPieceSlots, kExpertWarps);
  ForKind(down.bank, [&](auto kind) {
    LaunchWith(device, PieceDownKernel<decltype(kind)>, BlocksFor(device, work, down.lists.most), shared, y, down,
               PiecesOf(down.bank), work, early);
  });
}

bool PieceDownFitsOneRow(const ExpertProduct& down, int chosen) { return SharedOfOneRow(down, chosen) <= kTileShared; }

void PieceDownOneRow(Device& device, View out, const ExpertProduct& down, const Routing& routing, bool early) {
  const size_t shared = SharedOfOneRow(down, routing.chosen);
  ForKind(down.bank, [&](auto kind) {
    LaunchWith(device, PieceDownOneRowKernel<decltype(kind)>, CeilDiv(out.cols, int64_t{kTileOutputs}), shared,
               out.as<bf16>(), down, PiecesOf(down.bank), routing, PartsOf(down.bank), early);
  });
}

}  // namespace duo::cuda
