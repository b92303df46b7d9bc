#include <algorithm>

#include "kernels/base/cuda_check.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/hopper/hopper.h"
#include "kernels/cuda/hopper/rows_compute.cuh"
#include "kernels/cuda/hopper/rows_decode.cuh"
#include "kernels/cuda/hopper/rows_fetch.cuh"
#include "kernels/cuda/hopper/rows_hopper.h"
#include "kernels/cuda/hopper/tensor_map.h"
#include "kernels/cuda/kv/kv_formats.cuh"
#include "kernels/cuda/partial_sum.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

template <KvFormat kFormat, int kHeadDim, int kPairs>
__global__ void __launch_bounds__(RowsShape<kFormat, kHeadDim, kPairs>::kThreads, 1)
    RowsKernel(const __grid_constant__ RowsWork w) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Shape = RowsShape<kFormat, kHeadDim, kPairs>;
  extern __shared__ uint8_t memory[];
  RowsShared shared;
  shared.q = (SharedAddress(memory) + 1023) / 1024 * 1024;
  shared.k = shared.q + Shape::kQBytes;
  shared.v = shared.k + Shape::kKStages * Shape::kTileBytes;
  shared.raw = shared.v + Shape::kVStages * Shape::kTileBytes;
  const uint32_t end = shared.raw + (Shape::kCoded ? Shape::kRawStages * Shape::kRawBytes : 0);
  shared.items = reinterpret_cast<RowsItem*>(memory + (end - SharedAddress(memory)));
  using Barriers = RowsBarriers<Shape>;
  static_assert(2 * sizeof(RowsItem) + Barriers::kBytes <= Shape::kTailBytes);
  const Barriers barriers = {end + static_cast<uint32_t>(2 * sizeof(RowsItem))};
  LetDependentsStart();
  if (threadIdx.x == 0) barriers.Init();
  __syncthreads();
  WaitForDependency();
  const int group = Uniform(threadIdx.x / 128);
  if (group == 0) {
    ShrinkRegisters<Shape::kFetchRegisters>();
    if (threadIdx.x < 32) {
      FetchRowsTiles<kHeadDim>(w, barriers, shared);
    } else {
      FetchRowsQueries<kFormat, kHeadDim>(w, barriers, shared, threadIdx.x - 32);
    }
  } else if (group == 3) {
    if constexpr (Shape::kCoded) {
      ShrinkRegisters<Shape::kDecodeRegisters>();
      DecodeRowsTiles<kFormat, kHeadDim>(w, barriers, shared, threadIdx.x - 384);
    }
  } else {
    GrowRegisters<Shape::kComputeRegisters>();
    ComputeRows<kFormat, kHeadDim>(w, barriers, shared, group - 1);
  }
#endif
}

// The order of a row's sum depends on its position alone: ranges are cut at fixed places.
template <int kHeadDim>
__global__ void __launch_bounds__(32 * kMergeWarps) MergeRows(const __grid_constant__ RowsWork w) {
  LetDependentsStart();
  const int row = blockIdx.x, q_head = blockIdx.y, q_heads = gridDim.y;
  WaitForDependency();
  if (row == 0 && q_head == 0 && threadIdx.x == 0) *w.plan.counter = 0;  // for the next launch
  const RowsOfOne of = w.plan.rows[row];
  MergePartials<kHeadDim, 10>(  // so many: all of 250,000 tokens in one go
      {w.partial, w.partial_lse}, of.ranges,
      [&](int range) {
        const int slot = range < of.shared_ranges ? of.shared + range * of.shared_stride
                                                  : of.own + (range - of.shared_ranges) * of.own_stride;
        return int64_t{slot} * q_heads + q_head;
      },
      w.out + row * w.out_stride + int64_t{q_head} * kHeadDim,
      w.lse == nullptr ? nullptr : w.lse + int64_t{q_head} * w.num_rows + row);
}

// A plan's arrays one after the other; `bytes` becomes what they take.
RowsPlan PlanAt(const void* memory, int rows, size_t* bytes = nullptr) {
  auto* base = static_cast<uint8_t*>(const_cast<void*>(memory));
  size_t used = 0;
  auto take = [&](size_t size) {
    uint8_t* at = base + used;
    used += Arena::Rounded(size);
    return at;
  };
  RowsPlan plan;
  plan.segments = reinterpret_cast<RowsSegment*>(take(2 * kMostSequences * sizeof(RowsSegment)));
  plan.first_item = reinterpret_cast<int*>(take((2 * kMostSequences + 1) * sizeof(int)));
  plan.counter = reinterpret_cast<uint32_t*>(take(sizeof(uint32_t)));
  plan.list = reinterpret_cast<int*>(take(rows * sizeof(int)));
  plan.rows = reinterpret_cast<RowsOfOne*>(take(rows * sizeof(RowsOfOne)));
  if (bytes != nullptr) *bytes = used;
  return plan;
}
int BlockPairs(int rows) { return rows <= kExactRows ? 64 : 128; }
size_t PartialBytes(int64_t slots, int q_heads, int head_dim) {
  return Arena::Rounded(slots * q_heads * head_dim * sizeof(float)) + Arena::Rounded(slots * q_heads * sizeof(float));
}

template <KvFormat kFormat, int kHeadDim, int kPairs>
void Launch(Device& device, const RowsWork& w) {
  using Shape = RowsShape<kFormat, kHeadDim, kPairs>;
  const auto kernel = RowsKernel<kFormat, kHeadDim, kPairs>;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes));
  LaunchOverlapped(device, kernel, dim3(device.info().multiprocessors), dim3(Shape::kThreads), Shape::kSharedBytes, w);
  LaunchOverlapped(device, MergeRows<kHeadDim>, dim3(w.num_rows, w.heads * w.group), dim3(32 * kMergeWarps), 0, w);
}

}  // namespace

bool HopperRowsUsable(const Device& device, const PagedKv& kv, int num_seqs) {
  return num_seqs <= kMostSequences && IsHopper(device) && kv.page.format != KvFormat::kF32 &&
         (kv.page.head_dim == 64 || kv.page.head_dim == 128) && kv.window == 0;
}

size_t HopperRowsPlanBytes(int max_rows) {
  size_t bytes = 0;
  PlanAt(nullptr, max_rows, &bytes);
  return Arena::Rounded(bytes);
}

const void* PlanHopperRows(Device& device, const SeqBatch& batch, int group, const PagedKv& kv, Arena& arena) {
  DUO_CHECK_LE(batch.num_seqs, kMostSequences);
  const void* memory = arena.Take(HopperRowsPlanBytes(batch.num_rows));
  LaunchOverlapped(device, PlanRows, dim3(1), dim3(1024), 0, batch, kv, group, BlockPairs(batch.num_rows),
                   CutsFor(batch.num_rows, batch.max_tokens), PlanAt(memory, batch.num_rows));
  return memory;
}

size_t HopperRowsScratchBytes(const Device& device, int max_rows, int group, const PagedKv& kv, int64_t max_tokens) {
  int64_t slots = 0;
  for (int rows = 1; rows <= max_rows; ++rows) slots = std::max(slots, MostPartialsOf(rows, max_tokens));
  return HopperRowsPlanBytes(max_rows) + PartialBytes(slots, kv.num_heads * group, kv.page.head_dim);
}

void HopperRows(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, Arena& scratch) {
  const View &qkv = rows.qkv, &out = to.out;
  const HeadShape& shape = rows.shape;
  const SeqBatch& batch = rows.batch;
  const size_t mark = scratch.used();
  const int d = shape.head_dim;
  const int64_t first_column = int64_t{kv.first_head} * shape.group * d;
  RowsWork w = {};
  w.q = qkv.as<bf16>() + first_column;
  w.q_stride = qkv.stride;
  w.out = out.as<bf16>() + first_column;
  w.out_stride = out.stride;
  w.lse = to.lse;
  w.num_rows = batch.num_rows;
  w.num_seqs = batch.num_seqs;
  w.heads = kv.num_heads;
  w.group = shape.group;
  w.scale = kLog2e / sqrtf(static_cast<float>(d));
  w.positions = batch.positions;
  w.kv = kv;
  if (kv.page.format == KvFormat::kBF16) {
    const int64_t row_bytes = d * sizeof(bf16), rows = kv.head_stride / row_bytes * kv.num_heads;
    DUO_CHECK_EQ(kv.head_stride % row_bytes, 0);
    DUO_CHECK_LE(rows, int64_t{INT32_MAX});
    w.pages = BoxMap(reinterpret_cast<const bf16*>(kv.base), rows, row_bytes, d / 64, kTileKeys, d / 64);
  }
  w.cuts = CutsFor(batch.num_rows, batch.max_tokens);
  const void* plan = batch.plans[kv.split];
  if (plan == nullptr) plan = PlanHopperRows(device, batch, shape.group, kv, scratch);
  w.plan = PlanAt(plan, batch.num_rows);
  const int64_t slots = MostPartialsOf(batch.num_rows, batch.max_tokens) * kv.num_heads * shape.group;
  w.partial = static_cast<float*>(scratch.Take(slots * d * sizeof(float)));
  w.partial_lse = static_cast<float*>(scratch.Take(slots * sizeof(float)));
  VisitFormat(kv.page.format, [&](auto format) {
    auto of_pairs = [&](auto pairs) {
      if (d == 64) {
        Launch<format(), 64, pairs()>(device, w);
      } else {
        Launch<format(), 128, pairs()>(device, w);
      }
    };
    if (BlockPairs(batch.num_rows) == 64) {
      of_pairs(std::integral_constant<int, 64>());
    } else {
      of_pairs(std::integral_constant<int, 128>());
    }
  });
  scratch.Rewind(mark);
}

}  // namespace duo::cuda
