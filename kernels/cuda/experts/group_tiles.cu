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

// at_once: slots of x; columns: slots that a tile's sums have room for.
GroupWork WorkOf(const ExpertProduct& p, bool up, int at_once, int columns, int most_stages = kGroupStages) {
  const Weight& w = p.bank;
  GroupWork work = {};
  work.cols = static_cast<int>(w.cols);
  work.groups = work.cols / 32;
  work.blocks = CeilDiv(work.cols, kTileColumns);
  work.parts = 1;
  while (work.parts < kExpertWarps && CeilDiv(work.blocks, work.parts) > kGroupDepth) work.parts *= 2;
  work.tiles = kExpertWarps / work.parts;
  work.outputs = static_cast<int>(w.rows / p.experts / (up ? 2 : 1));
  work.units = CeilDiv(work.outputs, work.tiles * (up ? kTileOutputs / 2 : kTileOutputs));
  work.at_once = at_once;
  const int rows = work.tiles * kTileOutputs;
  work.code_bytes = static_cast<uint32_t>(rows * (work.cols / 2));
  work.param_bytes = static_cast<uint32_t>(RoundUp(rows * work.groups, 16));
  work.stages = most_stages;
  while (work.stages > 1 && GroupMemory::Bytes(work, columns) > kGroupShared) --work.stages;
  return work;
}
// Of lists: as many slots at once, but for the last two, as leave room for all stages, or else for two.
GroupWork ListWork(const ExpertProduct& p, bool up) {
  GroupWork work;
  for (const int stages : {kGroupListStages, 2}) {
    for (int at_once = kGroupSlots; at_once > (stages == 2 ? 0 : 2); --at_once) {
      work = WorkOf(p, up, at_once, kGroupSlots, kGroupListStages);
      if (work.stages >= stages) return work;
    }
  }
  return work;
}

int64_t BlocksFor(const Device& device, const GroupWork& work, int experts) {
  return std::min(int64_t{work.units} * experts, int64_t{device.info().multiprocessors} * 2);
}

template <typename... Parameters, typename... Arguments>
void LaunchWith(const Device& device, void (*kernel)(Parameters...), const GroupWork& work, int experts, int columns,
                Arguments... arguments) {
  const size_t shared = GroupMemory::Bytes(work, columns);
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)));
  LaunchOverlapped(device, kernel, dim3(static_cast<unsigned>(BlocksFor(device, work, experts))),
                   dim3(GroupThreads(work.stages)), shared, arguments...);
}

bool OnLine(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

bool InExpertGroups(const Device& device, const ExpertProduct& p, bool up) {
  const Weight& w = p.bank;
  if (!IsHopper(device) || p.experts <= 0 || w.cols <= 0) return false;
  if (w.dtype != DType::kI4 || w.block != 0) return false;
  if (w.table != CodeTable::kE2M1 || w.group != 32) return false;
  const int64_t outputs = w.rows / p.experts / (up ? 2 : 1);
  if (outputs % (up ? kTileOutputs / 2 : kTileOutputs) != 0 || w.cols % 64 != 0) return false;
  if (!OnLine(w.data) || !OnLine(w.exponents) || !OnLine(p.x)) return false;
  return p.x_stride % 8 == 0 && w.cols < int64_t{1} << 16 && ListWork(p, up).stages > 1;
}

// A warp's lanes know an expert each.
bool GroupsFitOneRow(const ExpertProduct& down, int chosen) {
  return chosen <= 32 && WorkOf(down, false, chosen, 1).stages > 1;
}

int GroupCounters(const ExpertProduct& down) { return WorkOf(down, false, 1, 1).units; }

void GroupGateUpOneRow(Device& device, bf16* product, const ExpertProduct& up, const Gating& gating, int* counters,
                       int num_counters) {
  const GroupWork work = WorkOf(up, true, 1, 1);
  LaunchWith(device, GroupGateUpOneRowKernel, work, up.lists.most, 1, product, up, gating, work, counters,
             num_counters);
}

void GroupDownOneRow(Device& device, View out, float* y, const ExpertProduct& down, const Routing& routing,
                     int* counters) {
  const GroupWork work = WorkOf(down, false, routing.chosen, 1);
  LaunchWith(device, GroupDownOneRowKernel, work, routing.chosen, 1, out.as<bf16>(), y, down, routing, work, counters);
}

void GroupGateUp(Device& device, bf16* product, const ExpertProduct& up, const Gating& gating) {
  const GroupWork work = ListWork(up, true);
  LaunchWith(device, GroupGateUpKernel, work, up.lists.most, kGroupSlots, product, up, gating, work);
}

void GroupDown(Device& device, float* y, const ExpertProduct& down, bool early) {
  const GroupWork work = ListWork(down, false);
  LaunchWith(device, GroupDownKernel, work, down.lists.most, kGroupSlots, y, down, work, early);
}

}  // namespace duo::cuda
