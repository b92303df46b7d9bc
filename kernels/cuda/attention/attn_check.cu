#include "kernels/alike_rows.h"
#include "kernels/base/cuda_check.h"
#include "kernels/cuda/attention/attn_check.h"
#include "kernels/cuda/attention/check_groups.cuh"
#include "kernels/cuda/attention/decode_combine.cuh"
#include "kernels/cuda/attention/decode_staged.cuh"
#include "kernels/cuda/hopper/hopper.h"
#include "kernels/cuda/kv/kv_formats.cuh"

namespace duo::cuda {
namespace {

// Eights of columns that a block attends to at once: as many as registers hold beside the warps that one row has.
template <KvFormat kFormat, int kHeadDim>
constexpr int kEights = kHeadDim == 64 || StagedConfig<kFormat, kHeadDim>::kWarps == 8 ? 4 : 2;

// A segment is attended to once for each kN eights of its columns, by the same warps in the same order.
template <KvFormat kFormat, int kHeadDim, int kN>
__global__ void __launch_bounds__(StagedConfig<kFormat, kHeadDim>::kThreads, 1)
    CheckKernel(const __grid_constant__ DecodeArgs args, const __grid_constant__ StreamingArgs streaming, int columns) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Shape = StageShape<kFormat, kHeadDim>;
  constexpr int kWarps = Shape::kWarps, kSteps = kHeadDim / 16;
  static_assert(size_t{kN} * kSteps * 32 * sizeof(uint2) <= Shape::kMergeBytes);
  extern __shared__ __align__(128) uint8_t staged[];
  float* merge = reinterpret_cast<float*>(staged + Shape::kMergeAt);
  uint2* q_shared = reinterpret_cast<uint2*>(merge);  // [n][step][lane]
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32;
  if (!args.keeps_room) LetDependentsStart();
  WarpStages<kFormat, kHeadDim, false> stages(staged);
  using Walker = PlanWalker<false>;
  const Walker walker = {args.batch, args.kv, args.lists, args.part, args.group, columns, Shape::kUnit, args.beside};
  const DecodePlan plan = walker.Plan(gridDim.x);
  uint32_t at = 0, run_end = 0;
  if (blockIdx.x < plan.blocks) at = plan.Begin(blockIdx.x), run_end = plan.Begin(blockIdx.x + 1);
  typename Walker::Found found = {};
  auto segment_at = [&] {
    if (at >= found.first_unit + found.work.units * found.work.items) found = walker.Find(at, 0);
    return Segment<false>(args, found, at, run_end, columns);
  };
  // What is attended to next: the same segment's next columns, or the next segment.
  auto next_of = [&](Segment<false> segment) {
    if (segment.columns > 8 * kN) {
      segment.first_column += 8 * kN;
      segment.columns -= 8 * kN;
      return segment;
    }
    at += segment.last - segment.first;
    return at < run_end ? segment_at() : segment;
  };
  Segment<false> segment;
  bool waits = true;
  if (at < run_end) {
    segment = segment_at();
    stages.Begin(args.kv, segment, waits);
  }
  if constexpr (kStreamsBeside<kFormat, kHeadDim>) {
    if (streaming.q != nullptr && threadIdx.x < 32 * kStreamingWarps) {
      AttendStreamingRows<kHeadDim>(streaming, plan.OtherOf(blockIdx.x), gridDim.x, merge, waits);
    }
  }
  if (waits) WaitForDependency();
  waits = false;
  while (at < run_end) {
    const Segment<false> now = segment;
    WarpAttention<kFormat, kHeadDim, kN> warp;
    __syncthreads();  // nobody reads what the last merge left
    stages.Queries(args, now, warp, [&](int n, int step, uint2 f) {
      if (w == 0) q_shared[(n * kSteps + step) * 32 + lane] = f;
    });
    __syncthreads();
    stages.template Attend<false>(args, now, warp,
                                  [&](int n, int step) { return q_shared[(n * kSteps + step) * 32 + lane]; });
    segment = next_of(now);
    if (at < run_end) {  // its first units come while this one's warps are merged
      stages.Begin(args.kv, segment, waits);
    } else if (args.keeps_room) {
      LetDependentsStart();
    }
    float* slot_out = args.partial_out + int64_t{blockIdx.x + now.item} * columns * kHeadDim;
    float* slot_lse = args.partial_lse + int64_t{blockIdx.x + now.item} * columns;
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      if (8 * n >= now.columns) break;
      WarpAttention<kFormat, kHeadDim, 1> eight;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        eight.top[0][j] = warp.top[n][j];
        eight.sum[0][j] = warp.sum[n][j];
        eight.offset[0][j] = warp.offset[n][j];
      }
#pragma unroll
      for (int m = 0; m < kSteps; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) eight.o[0][m][i] = warp.o[n][m][i];
      }
      const int first = now.first_column + 8 * n;
      MergeWarps<kWarps>(
          eight, merge,
          [&](int col, int channel, float x) {
            if (8 * n + col < now.columns) slot_out[(first + col) * kHeadDim + channel] = x;
          },
          [&](int col, float lse) {
            if (8 * n + col < now.columns) slot_lse[first + col] = lse;
          });
    }
  }
#endif
}

// The same by warp groups.
template <KvFormat kFormat, int kHeadDim>
__global__ void __launch_bounds__(32 * StageShape<kFormat, kHeadDim>::kWarps, 1)
    GroupCheckKernel(const __grid_constant__ DecodeArgs args, const __grid_constant__ StreamingArgs streaming,
                     int columns) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Group = WarpGroup<kFormat, kHeadDim>;
  extern __shared__ __align__(1024) uint8_t staged[];
  if (!args.keeps_room) LetDependentsStart();
  Group group(staged);
  using Walker = PlanWalker<false>;
  const Walker walker = {args.batch, args.kv, args.lists, args.part, args.group, columns, Group::kUnit, args.beside};
  const DecodePlan plan = walker.Plan(gridDim.x);
  uint32_t at = 0, run_end = 0;
  if (blockIdx.x < plan.blocks) at = plan.Begin(blockIdx.x), run_end = plan.Begin(blockIdx.x + 1);
  typename Walker::Found found = {};
  auto segment_at = [&] {
    if (at >= found.first_unit + found.work.units * found.work.items) found = walker.Find(at, 0);
    return Segment<false>(args, found, at, run_end, columns);
  };
  // What is attended to next: the same segment's next columns, or the next segment.
  auto next_of = [&](Segment<false> segment) {
    if (segment.columns > Group::kCols) {
      segment.first_column += Group::kCols;
      segment.columns -= Group::kCols;
      return segment;
    }
    at += segment.last - segment.first;
    return at < run_end ? segment_at() : segment;
  };
  Segment<false> segment;
  bool waits = true;
  if (at < run_end) {
    segment = segment_at();
    group.Begin(args.kv, segment, waits);
  }
  if (streaming.q != nullptr) {
    float* merge = reinterpret_cast<float*>(staged + Group::Shape::kPAt);
    static_assert(Group::kWarps == kStreamingWarps);
    AttendStreamingRows<kHeadDim>(streaming, plan.OtherOf(blockIdx.x), gridDim.x, merge, waits);
    __syncthreads();
  }
  if (waits) WaitForDependency();
  waits = false;
  while (at < run_end) {
    const Segment<false> now = segment;
    group.Queries(args, now);
    __syncthreads();
    group.Attend(args, now);
    float* slot_out = args.partial_out + int64_t{blockIdx.x + now.item} * columns * kHeadDim;
    float* slot_lse = args.partial_lse + int64_t{blockIdx.x + now.item} * columns;
    group.Merge(now, slot_out, slot_lse, [&] {
      segment = next_of(now);
      if (at < run_end) {
        group.Begin(args.kv, segment, waits);
      } else if (args.keeps_room) {
        LetDependentsStart();
      }
    });
  }
#endif
}

template <KvFormat kFormat, int kHeadDim, int kN>
void LaunchEights(Device& device, const DecodeArgs& args, const StreamingArgs& streaming, int columns, int grid) {
  using Shape = StageShape<kFormat, kHeadDim>;
  const auto kernel = CheckKernel<kFormat, kHeadDim, kN>;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes));
  LaunchOverlapped(device, kernel, dim3(grid), dim3(Shape::Config::kThreads), Shape::kSharedBytes, args, streaming,
                   columns);
}
template <KvFormat kFormat, int kHeadDim>
void LaunchGroups(Device& device, const DecodeArgs& args, const StreamingArgs& streaming, int columns, int grid) {
  constexpr int kShared = GroupShape<kFormat, kHeadDim>::kSharedBytes;
  const auto kernel = GroupCheckKernel<kFormat, kHeadDim>;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  const dim3 threads(StageShape<kFormat, kHeadDim>::Config::kThreads);
  LaunchOverlapped(device, kernel, dim3(grid), threads, kShared, args, streaming, columns);
}
template <KvFormat kFormat, int kHeadDim>
void Launch(Device& device, const DecodeArgs& args, const StreamingArgs& streaming, int columns, int grid) {
  using Shape = StageShape<kFormat, kHeadDim>;
  if (columns <= 8) {
    LaunchEights<kFormat, kHeadDim, 1>(device, args, streaming, columns, grid);
  } else if constexpr (StagedConfig<kFormat, kHeadDim>::kGroups) {
    if (columns <= 16) {
      LaunchEights<kFormat, kHeadDim, 2>(device, args, streaming, columns, grid);
    } else {
      LaunchGroups<kFormat, kHeadDim>(device, args, streaming, columns, grid);
    }
  } else {
    LaunchEights<kFormat, kHeadDim, kEights<kFormat, kHeadDim>>(device, args, streaming, columns, grid);
  }
  LaunchOverlapped(device, MergeKernel<kHeadDim, false>, dim3(args.batch.num_rows, args.kv.num_heads * args.group),
                   dim3(32 * kMergeWarps), 0, args, columns, Shape::kUnit, grid);
}

bool Attended(KvFormat format) { return format != KvFormat::kF32; }

}  // namespace

bool AttentionAlike(const Device& device, int head_dim, int group, KvFormat format) {
  return IsHopper(device) && group <= 8 && Attended(format) && (head_dim == 64 || head_dim == 128);
}

bool AttendsCheck(const Device& device, const SeqBatch& batch, int group, const PagedKv& kv) {
  return batch.num_seqs == 1 && batch.num_rows > 1 && batch.num_rows <= kAlikeRows && kv.window == 0 &&
         cuda::AttentionAlike(device, kv.page.head_dim, group, kv.page.format);
}

void LaunchCheck(Device& device, const DecodeArgs& args, const StreamingArgs* beside, int grid) {
  const int columns = args.batch.num_rows * args.group;
  StreamingArgs streaming = {};
  if (beside != nullptr) streaming = *beside;
  VisitFormat(args.kv.page.format, [&](auto format) {
    if (args.kv.page.head_dim == 64) return Launch<format(), 64>(device, args, streaming, columns, grid);
    Launch<format(), 128>(device, args, streaming, columns, grid);
  });
}

}  // namespace duo::cuda
