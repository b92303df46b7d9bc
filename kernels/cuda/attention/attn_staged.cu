#include "kernels/base/cuda_check.h"
#include "kernels/cuda/attention/decode_staged.cuh"
#include "kernels/cuda/attention/decode_staged.h"
#include "kernels/cuda/hopper/hopper.h"
#include "kernels/cuda/kv/kv_formats.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

// A streaming head takes about the time in which a block reads so much of pages: it reads 160 KB, and waits for most of
// its loads one after the other.
constexpr int kStreamingBytes = 416 * 1024;

template <KvFormat kFormat, int kHeadDim, bool kListed, bool kMass>
__global__ void __launch_bounds__(StagedConfig<kFormat, kHeadDim>::kThreads, 1)
    StagedDecodeKernel(const __grid_constant__ DecodeArgs args, const __grid_constant__ StreamingArgs streaming) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Shape = StageShape<kFormat, kHeadDim>;
  constexpr int kWarps = Shape::kWarps;
  extern __shared__ __align__(128) uint8_t staged[];
  float* merge = reinterpret_cast<float*>(staged + Shape::kMergeAt);
  if (!args.keeps_room) LetDependentsStart();
  WarpStages<kFormat, kHeadDim, kListed> stages(staged);
  using Walker = PlanWalker<kListed>;
  const Walker walker = {args.batch, args.kv, args.lists, args.part, args.group, 8, Shape::kUnit, args.beside};
  const DecodePlan plan = walker.Plan(gridDim.x);
  // Lengths, page tables and the keys of earlier steps were there before the step's first kernel, which overlaps with
  // nothing before it; queries and the step's own keys were not.
  uint32_t at = 0, run_end = 0;
  if (blockIdx.x < plan.blocks) at = plan.Begin(blockIdx.x), run_end = plan.Begin(blockIdx.x + 1);
  typename Walker::Found found = {};
  auto segment_at = [&] {
    if (at >= found.first_unit + found.work.units * found.work.items) found = walker.Find(at, 0);
    return Segment<kListed>(args, found, at, run_end, 8);
  };
  Segment<kListed> segment;
  bool waits = true;
  if (at < run_end) {
    segment = segment_at();
    stages.Begin(args.kv, segment, waits);
  }
  if constexpr (kStreamsBeside<kFormat, kHeadDim>) {
    static_assert(kWarps >= kStreamingWarps);
    const uint32_t other = plan.OtherOf(blockIdx.x);
    if (other < args.beside.blocks && threadIdx.x < 32 * kStreamingWarps) {
      const int heads = streaming.keys.kv.num_heads, head = other % heads, seq = other / heads;
      AttendStreamingHead<kHeadDim, 1>(streaming, head, seq, 0, 0, merge, waits, FirstWarps<kStreamingWarps>());
      waits = false;
      StoreRingOfHead<kHeadDim>(streaming.keys, head, seq);
    }
  }
  if (waits) WaitForDependency();
  waits = false;
  while (at < run_end) {
    const Segment<kListed> now = segment;
    WarpAttention<kFormat, kHeadDim, 1> warp;
    uint2 q[kHeadDim / 16];
    stages.Queries(args, now, warp, [&](int, int step, uint2 f) { q[step] = f; });
    stages.template Attend<kMass>(args, now, warp, [&](int, int step) { return q[step]; });
    at += now.last - now.first;
    if (at < run_end) {  // its first units come while this segment's warps are merged
      segment = segment_at();
      stages.Begin(args.kv, segment, waits);
    } else if (args.keeps_room) {
      LetDependentsStart();  // not before: blocks of the merge would take the room that is kept for what runs beside
    }
    float* slot_out = args.partial_out + int64_t{blockIdx.x + now.item} * 8 * kHeadDim;
    float* slot_lse = args.partial_lse + int64_t{blockIdx.x + now.item} * 8;
    MergeWarps<kWarps>(
        warp, merge,
        [&](int col, int channel, float x) {
          if (col < now.columns) slot_out[col * kHeadDim + channel] = x;
        },
        [&](int col, float lse) { slot_lse[col] = lse; });
  }
#endif
}

template <KvFormat kFormat, int kHeadDim, bool kListed, bool kMass>
void Launch(Device& device, const DecodeArgs& args, const StreamingArgs& streaming, int grid) {
  using Shape = StageShape<kFormat, kHeadDim>;
  const auto kernel = StagedDecodeKernel<kFormat, kHeadDim, kListed, kMass>;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Shape::kSharedBytes));
  LaunchOverlapped(device, kernel, dim3(grid), dim3(Shape::Config::kThreads), Shape::kSharedBytes, args, streaming);
}

// visit(format, head size) with the page's as constants.
template <typename Visit>
void VisitPages(const PageLayout& page, Visit&& visit) {
  VisitFormat(page.format, [&](auto format) {
    if (page.head_dim == 64) return visit(format, std::integral_constant<int, 64>());
    visit(format, std::integral_constant<int, 128>());
  });
}

}  // namespace

bool StreamsInStaged(const Device& device, const StepRows& rows, const PagedKv& kv, const RingKv& ring) {
  if (!IsHopper(device) || kv.page.format == KvFormat::kF32 || ring.format != KvFormat::kBF16) return false;
  if (rows.shape.group > 8) return false;
  bool streams = false;
  VisitPages(kv.page, [&](auto format, auto head_dim) { streams = kStreamsBeside<format(), head_dim()>; });
  return streams && ring.num_heads * rows.batch.num_seqs <= device.info().multiprocessors / 2;
}

StagedTokens StagedTokensOf(const PageLayout& page) {
  StagedTokens tokens = {};
  VisitPages(page, [&](auto format, auto head_dim) {
    using Config = StagedConfig<format(), head_dim()>;
    tokens = {Config::kUnit, Config::kStep};
  });
  return tokens;
}

WorkBeside StagedWorkBeside(const PagedKv& kv, int blocks) {
  WorkBeside beside;
  beside.blocks = blocks;
  VisitPages(kv.page, [&](auto format, auto head_dim) {
    beside.units = kStreamingBytes / StageShape<format(), head_dim()>::kBytes;
  });
  return beside;
}

void LaunchStaged(Device& device, const DecodeArgs& args, const StreamingArgs& streaming, bool listed, int grid) {
  VisitPages(args.kv.page, [&](auto format, auto head_dim) {
    if (args.mass.heads != 0) return Launch<format(), head_dim(), false, true>(device, args, streaming, grid);
    if (listed) return Launch<format(), head_dim(), true, false>(device, args, streaming, grid);
    Launch<format(), head_dim(), false, false>(device, args, streaming, grid);
  });
}

}  // namespace duo::cuda
