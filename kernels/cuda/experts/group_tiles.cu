#include <algorithm>

#include "kernels/base/cuda_check.h"
#include "kernels/cuda/experts/group_tiles.cuh"
#include "kernels/cuda/experts/group_tiles.h"
#include "kernels/cuda/hopper/hopper.h"

namespace duo::cuda {
namespace {

// Of shared memory: two blocks of a multiprocessor have room, so that a kernel's codes are on their way while the one
// before it ends.
constexpr size_t kGroupShared = size_t{112} << 10;

// Warps' sums of a tile that have room at once: of gate and up those of a stage are written again while the last ones
// are read.
int SumsOf(const GroupWork& work, bool up) { return (up ? 2 * work.stages : work.slots) * work.parts; }
size_t SharedFor(const GroupWork& work, const Weight& w, bool up) {
  return GroupMemory::Bytes(work, w.group, SumsOf(work, up));
}

// With as many stages as have room, fewer than two where it cannot be done.
GroupWork WorkOf(const ExpertProduct& p, bool up, int slots) {
  const Weight& w = p.bank;
  GroupWork work = {};
  work.parts = TileParts(w.cols);
  work.cols = static_cast<int>(w.cols);
  work.groups = work.cols / w.group;
  work.outputs = static_cast<int>(w.rows / p.experts / (up ? 2 : 1));
  work.tiles = work.outputs / (up ? kTileOutputs / 2 : kTileOutputs);
  work.slots = slots;
  work.code_bytes = static_cast<uint32_t>(kTileOutputs * (work.cols / 2));
  work.scale_bytes = static_cast<uint32_t>(kTileOutputs * work.groups * (w.exponents != nullptr ? 1 : 4));
  work.stages = up ? kGroupStages : std::min(kGroupStages, slots);
  while (work.stages > 0 && SharedFor(work, w, up) > kGroupShared) --work.stages;
  return work;
}

bool OnLine(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// up: of gate and up, whose tiles are two halves.
bool Fits(const ExpertProduct& p, bool up, int slots) {
  const Weight& w = p.bank;
  if (p.experts <= 0 || w.cols <= 0 || w.cols >= int64_t{1} << 16 || w.dtype != DType::kI4 || w.block != 0)
    return false;
  const bool powers = w.table == CodeTable::kE2M1;
  if (powers ? w.group != 32 : w.table != CodeTable::kNone || (w.group != 32 && w.group != 64 && w.group != 128)) {
    return false;
  }
  const int rows = up ? kTileOutputs / 2 : kTileOutputs;  // that lie together
  const int64_t scales = rows * (w.cols / w.group) * (powers ? 1 : 4);
  if (w.rows / p.experts / (up ? 2 : 1) % rows != 0 || w.cols % 32 != 0 || scales % 16 != 0) return false;
  if (!OnLine(w.data) || !OnLine(powers ? static_cast<const void*>(w.exponents) : w.groups)) return false;
  if (!OnLine(p.x) || p.x_stride % 8 != 0) return false;
  const GroupWork work = WorkOf(p, up, slots);
  return work.stages >= std::min(2, up ? 2 : slots);
}

template <typename Launch>
void ForCodes(const Weight& w, const Launch& launch) {
  if (w.table == CodeTable::kE2M1) return launch(PowerTile());
  if (w.group == 128) return launch(Int4Tile<128>());
  if (w.group == 64) return launch(Int4Tile<64>());
  launch(Int4Tile<32>());
}

template <typename... Parameters, typename... Arguments>
void LaunchWith(const Device& device, void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared,
                Arguments... arguments) {
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  LaunchOverlapped(device, kernel, dim3(static_cast<unsigned>(blocks)), dim3(threads), shared, arguments...);
}

}  // namespace

bool FitsExpertGroups(const Device& device, const ExpertProduct& up, const ExpertProduct& down, int chosen) {
  return IsHopper(device) && Fits(up, true, 1) && Fits(down, false, chosen);
}

void GroupGateUp(Device& device, bf16* product, const ExpertProduct& up, const Gating& gating) {
  GroupWork work = WorkOf(up, true, 1);
  const int64_t tiles = int64_t{work.tiles} * up.lists.most;
  const int64_t blocks = std::min(tiles, int64_t{device.info().multiprocessors} * 2);
  work.stages = static_cast<int>(std::min<int64_t>(work.stages, CeilDiv(tiles, blocks)));
  ForCodes(up.bank, [&](auto codes) {
    LaunchWith(device, GroupGateUpKernel<decltype(codes)>, blocks, GroupUpThreads(work.stages),
               SharedFor(work, up.bank, true), product, up, gating, work);
  });
}

void GroupDown(Device& device, View out, const ExpertProduct& down, const Routing& routing) {
  const GroupWork work = WorkOf(down, false, routing.chosen);
  ForCodes(down.bank, [&](auto codes) {
    LaunchWith(device, GroupDownKernel<decltype(codes)>, work.tiles, kGroupDownThreads,
               SharedFor(work, down.bank, false), out.as<bf16>(), down, routing, work);
  });
}

}  // namespace duo::cuda
