#include <algorithm>

#include "kernels/base/cuda_check.h"
#include "kernels/cuda/experts/group_lists.cuh"
#include "kernels/cuda/experts/group_one_row.cuh"
#include "kernels/cuda/experts/group_tiles.h"
#include "kernels/cuda/hopper/hopper.h"

namespace duo::cuda {
namespace {

// Of shared memory. Of one row two blocks of a multiprocessor have room, so that a kernel's codes are on their way
// while the one before it ends.
constexpr size_t kOneRowShared = size_t{112} << 10, kListShared = size_t{224} << 10;
constexpr int kFewestListStages = 3;
// Of a tile: with shorter ones (Qwen3-30B-A3B's of 17 and 7 KB) few_rows_tiles.cuh was faster, of gpt-oss-20b's (25 KB)
// slower.
constexpr uint32_t kLeastTileBytes = 20 << 10;

enum class Product { kUpOneRow, kDownOneRow, kUp, kDown };
bool IsUp(Product kind) { return kind == Product::kUpOneRow || kind == Product::kUp; }
bool IsOneRow(Product kind) { return kind == Product::kUpOneRow || kind == Product::kDownOneRow; }

size_t SharedFor(const GroupWork& work, const Weight& w, Product kind) {
  const int tiles = kind == Product::kUpOneRow     ? 2 * work.stages  // one's are written while another's are read
                    : kind == Product::kDownOneRow ? work.slots
                                                   : work.stages * kTileSlots;
  return GroupMemory::Bytes(work, w.group, tiles * work.parts);
}

// With as many stages as have room, 0 where there is none. slots: of x.
GroupWork WorkOf(const ExpertProduct& p, Product kind, int slots) {
  const Weight& w = p.bank;
  GroupWork work = {};
  work.parts = TileParts(w.cols);
  work.cols = static_cast<int>(w.cols);
  work.groups = work.cols / w.group;
  work.outputs = static_cast<int>(w.rows / p.experts / (IsUp(kind) ? 2 : 1));
  work.tiles = work.outputs / (IsUp(kind) ? kTileOutputs / 2 : kTileOutputs);
  work.slots = slots;
  work.code_bytes = static_cast<uint32_t>(kTileOutputs * (work.cols / 2));
  work.scale_bytes = static_cast<uint32_t>(kTileOutputs * work.groups * (w.exponents != nullptr ? 1 : 4));
  work.stages = !IsOneRow(kind) ? kListStages : IsUp(kind) ? kUpStages : std::min(kGroupStages, slots);
  while (work.stages > 0 && SharedFor(work, w, kind) > (IsOneRow(kind) ? kOneRowShared : kListShared)) --work.stages;
  work.teams = (IsOneRow(kind) ? kExpertWarps : kListWarps) / work.parts;
  if (work.stages > 0) work.teams = TeamsFor(work.teams, work.stages);
  return work;
}
// Of lists: with as many slots at once as leave room for some stages.
GroupWork ListWork(const ExpertProduct& p, bool up) {
  GroupWork work = {};
  for (int slots = kTileSlots; slots > 0 && work.stages < kFewestListStages; slots /= 2) {
    work = WorkOf(p, up ? Product::kUp : Product::kDown, slots);
  }
  return work;
}

bool OnLine(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// What shape and format say.
bool IsOfTiles(const ExpertProduct& p, bool up) {
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
  const int64_t tile = kTileOutputs * (w.cols / 2) + scales * (kTileOutputs / rows);
  if (tile < kLeastTileBytes) return false;
  return OnLine(w.data) && OnLine(powers ? static_cast<const void*>(w.exponents) : w.groups) && OnLine(p.x) &&
         p.x_stride % 8 == 0;
}

template <typename... Parameters, typename... Arguments>
void LaunchWith(const Device& device, void (*kernel)(Parameters...), int64_t blocks, int threads, size_t shared,
                Arguments... arguments) {
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  LaunchOverlapped(device, kernel, dim3(static_cast<unsigned>(blocks)), dim3(threads), shared, arguments...);
}

// So many blocks run at once, but no more than there can be tiles; and no more stages than a block has tiles.
int64_t DealTiles(const Device& device, int of_multiprocessor, int experts, GroupWork* work) {
  const int64_t tiles = int64_t{work->tiles} * experts;
  const int64_t blocks = std::min(tiles, int64_t{device.info().multiprocessors} * of_multiprocessor);
  work->stages = static_cast<int>(std::min<int64_t>(work->stages, CeilDiv(tiles, blocks)));
  work->teams = TeamsFor(work->teams, work->stages);
  return blocks;
}

}  // namespace

bool InExpertGroups(const Device& device, const ExpertProduct& p, bool up) {
  return IsHopper(device) && IsOfTiles(p, up) && ListWork(p, up).stages >= kFewestListStages;
}

void GroupGateUp(Device& device, bf16* product, const ExpertProduct& up, const Gating& gating) {
  GroupWork work = ListWork(up, true);
  const int64_t blocks = DealTiles(device, 1, up.lists.most, &work);
  ForCodes(up.bank, [&](auto codes) {
    LaunchWith(device, GroupGateUpKernel<decltype(codes)>, blocks, ListThreads(work.stages),
               SharedFor(work, up.bank, Product::kUp), product, up, gating, work);
  });
}

void GroupDown(Device& device, float* y, const ExpertProduct& down, bool early) {
  GroupWork work = ListWork(down, false);
  const int64_t blocks = DealTiles(device, 1, down.lists.most, &work);
  ForCodes(down.bank, [&](auto codes) {
    LaunchWith(device, GroupDownKernel<decltype(codes)>, blocks, ListThreads(work.stages),
               SharedFor(work, down.bank, Product::kDown), y, down, work, early);
  });
}

bool GroupsFitOneRow(const Device& device, const ExpertProduct& up, const ExpertProduct& down, int chosen) {
  return IsHopper(device) && IsOfTiles(up, true) && IsOfTiles(down, false) &&
         WorkOf(up, Product::kUpOneRow, 1).stages > 1 &&
         WorkOf(down, Product::kDownOneRow, chosen).stages >= std::min(2, chosen);
}

void GroupGateUpOneRow(Device& device, bf16* product, const ExpertProduct& up, const Gating& gating) {
  GroupWork work = WorkOf(up, Product::kUpOneRow, 1);
  const int64_t blocks = DealTiles(device, 2, up.lists.most, &work);
  ForCodes(up.bank, [&](auto codes) {
    LaunchWith(device, GroupGateUpOneRowKernel<decltype(codes)>, blocks, GroupUpThreads(work.stages),
               SharedFor(work, up.bank, Product::kUpOneRow), product, up, gating, work);
  });
}

void GroupDownOneRow(Device& device, View out, const ExpertProduct& down, const Routing& routing) {
  const GroupWork work = WorkOf(down, Product::kDownOneRow, routing.chosen);
  ForCodes(down.bank, [&](auto codes) {
    LaunchWith(device, GroupDownOneRowKernel<decltype(codes)>, work.tiles, kGroupDownThreads,
               SharedFor(work, down.bank, Product::kDownOneRow), out.as<bf16>(), down, routing, work);
  });
}

}  // namespace duo::cuda
