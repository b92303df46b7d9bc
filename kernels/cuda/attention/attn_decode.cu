// Decode attention over pages: split over keys, any codec read in place, a GQA group sharing each read. Two kernels:
// the partials of a fixed grid of blocks (decode_segment.cuh), then their merge (decode_combine.cuh). Bound by the
// bytes of codes read; see decode_tile.cuh for the arithmetic and decode_plan.cuh for the split.
#include <algorithm>
#include <bit>

#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/attention/attn_check.h"
#include "kernels/cuda/attention/decode_combine.cuh"
#include "kernels/cuda/attention/decode_segment.cuh"
#include "kernels/cuda/attention/decode_staged.h"
#include "kernels/cuda/hopper/hopper.h"
#include "kernels/cuda/hopper/rows_hopper.h"
#include "kernels/cuda/kv/kv_formats.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

// Query columns a pass of the decode kernel takes: as few eights as hold a sequence's rows, up to four.
int ColumnEights(int64_t columns) { return columns <= 8 ? 1 : columns <= 16 ? 2 : 4; }

// Partials of so many rows, in items of at most `columns` columns, which hold more than one row where there is room.
int64_t Slots(const Device& device, int64_t rows, int group, int heads, int columns) {
  return PageBlocks(device, 0) + heads * rows * CeilDiv(group, columns);
}

// Does this step go to the kernel that reads shared pages once? One row alone has nothing to share, and is cut better
// without regard to company; so are a few of one sequence alone, which are attended to as if each were alone. Decoding
// pages in shared memory takes longer than reading them, so with coded pages it pays for forks (measured: of int4 from
// four on), and for many rows of one sequence.
bool ForHopperRows(const Device& device, const SeqBatch& batch, int group, const PagedKv& kv) {
  if (batch.num_rows == 1 || AttendsCheck(device, batch, group, kv)) return false;
  if (!HopperRowsUsable(device, kv, batch.num_seqs)) return false;
  const bool int4 = kv.page.format == KvFormat::kInt4;
  if (kv.page.format == KvFormat::kBF16 || batch.max_rows > (int4 ? 8 : 4)) return true;
  return batch.may_share && batch.num_seqs >= (int4 ? 4 : 2);
}

// Of a check's, which has as many as a row alone.
int64_t CheckSlots(const Device& device, const PagedKv& kv) { return PageBlocks(device, 0) + kv.num_heads; }
SeqBatch OneSequence(int rows) {
  SeqBatch batch;
  batch.num_seqs = 1;
  batch.num_rows = batch.max_rows = rows;
  return batch;
}
size_t PartialBytes(int64_t slots, int columns, int head_dim) {
  return Arena::Rounded(slots * columns * head_dim * sizeof(float)) + Arena::Rounded(slots * columns * sizeof(float));
}

// The partials of the narrowest form, where they are not by decode_segment.cuh.
struct Staged {
  bool use = false;
  StreamingArgs streaming = {};
};

template <KvFormat kFormat, int kHeadDim, int kN, bool kListed, bool kMass, bool kChunked>
void LaunchPartials(Device& device, const DecodeArgs& args, int grid) {
  using Config = DecodeConfig<kFormat, kHeadDim, kN>;
  const auto kernel = DecodeKernel<kFormat, kHeadDim, kN, kListed, kMass, kChunked>;
  constexpr size_t kShared = MergeSharedBytes<Config::kWarps, kHeadDim, kN>();
  static_assert(kShared >= size_t{kN} * kHeadDim / 16 * 32 * sizeof(uint2));
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared));
  LaunchOverlapped(device, kernel, dim3(grid), dim3(Config::kThreads), kShared, args);
}

template <KvFormat kFormat, int kHeadDim, int kN, bool kListed, bool kMass = false, bool kChunked = false>
void Launch(Device& device, const DecodeArgs& args, const Staged& staged, int grid) {
  int unit = DecodeConfig<kFormat, kHeadDim, kN>::kUnit;
  if (kN == 1 && !kChunked && staged.use) {
    unit = StagedTokensOf(args.kv.page).unit;
    LaunchStaged(device, args, staged.streaming, kListed, grid);
  } else {
    LaunchPartials<kFormat, kHeadDim, kN, kListed, kMass, kChunked>(device, args, grid);
  }
  // The merge works out its share while the last partials are computed, then waits for them.
  LaunchOverlapped(device, MergeKernel<kHeadDim, kListed>, dim3(args.batch.num_rows, args.kv.num_heads * args.group),
                   dim3(32 * kMergeWarps), 0, args, 8 * kN, unit, grid);
}

template <KvFormat kFormat, int kHeadDim>
void LaunchColumns(Device& device, const DecodeArgs& args, bool listed, const Staged& staged, int eights, int grid) {
  if (args.mass.heads != 0) return Launch<kFormat, kHeadDim, 1, false, true>(device, args, staged, grid);
  if (listed) return Launch<kFormat, kHeadDim, 1, true>(device, args, staged, grid);
  if (!args.part.all()) {
    if (eights == 1) return Launch<kFormat, kHeadDim, 1, false, false, true>(device, args, staged, grid);
    return Launch<kFormat, kHeadDim, 4, false, false, true>(device, args, staged, grid);
  }
  if (eights == 1) return Launch<kFormat, kHeadDim, 1, false>(device, args, staged, grid);
  if (eights == 2) return Launch<kFormat, kHeadDim, 2, false>(device, args, staged, grid);
  return Launch<kFormat, kHeadDim, 4, false>(device, args, staged, grid);
}

// By this file's kernels. lists: null where nobody visits any; else the narrowest form, whose rows have few columns.
// mass: no heads where nobody asks.
void Decode(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, const DecodeLists* lists,
            const MassOut& mass, Arena& scratch) {
  const View& queries = rows.part.q.data == nullptr ? rows.qkv : rows.part.q;
  const HeadShape& shape = rows.shape;
  const SeqBatch& batch = rows.batch;
  const size_t mark = scratch.used();
  const bool listed = lists != nullptr;
  const bool check = !listed && mass.heads == 0 && rows.part.all() && AttendsCheck(device, batch, shape.group, kv);
  int eights = listed ? 1 : ColumnEights(int64_t{batch.max_rows} * shape.group);
  if (!rows.part.all() && eights == 2) eights = 4;  // there is no kernel of that width
  const int64_t slots =
      check ? CheckSlots(device, kv) : Slots(device, batch.num_rows, shape.group, kv.num_heads, listed ? 8 : 32);
  const int columns = check ? batch.num_rows * shape.group : 8 * eights;
  const int64_t first_column = int64_t{kv.first_head} * shape.group * shape.head_dim;
  DecodeArgs args = {};
  args.q = queries.as<bf16>() + first_column;
  args.q_stride = queries.stride;
  args.out = to.out.as<bf16>() + first_column;
  args.out_stride = to.out.stride;
  args.lse = to.lse;
  args.group = shape.group;
  args.scale = kLog2e / sqrtf(static_cast<float>(shape.head_dim));
  args.batch = batch;
  args.kv = kv;
  if (listed) args.lists = *lists;
  args.part = rows.part;
  args.mass = mass;
  args.partial_out = static_cast<float*>(scratch.Take(slots * columns * shape.head_dim * sizeof(float)));
  args.partial_lse = static_cast<float*>(scratch.Take(slots * columns * sizeof(float)));
  const int grid = PageBlocks(device, rows.blocks_beside);
  args.keeps_room = grid < PageBlocks(device, 0);
  Staged staged;
  staged.use = eights == 1 && rows.part.all() && IsHopper(device);
  bool inside = false;  // streaming heads, by the blocks of the pages' kernel
  if (rows.streaming.kv != nullptr) {
    const RingKv& ring = *rows.streaming.kv;
    // A row alone leaves its streaming heads' blocks so much less of the pages; so does a check, whose cut is the same.
    if (check || batch.max_rows == 1) args.beside = StagedWorkBeside(kv, ring.num_heads * batch.num_seqs);
    inside = batch.max_rows == 1 || (check && StoresBeside(batch, ring));
    if (inside) {
      DUO_CHECK(check || staged.use);
      staged.streaming = StreamingArgsOf({to.out, rows.streaming.lse}, rows, ring);
    } else {
      device.Fork([&] {
        cuda::AttendStreaming(device, {to.out, rows.streaming.lse}, rows, ring, scratch);
        cuda::StoreRings(device, rows, ring);
      });
    }
  }
  if (check) {
    LaunchCheck(device, args, inside ? &staged.streaming : nullptr, grid);
    if (rows.streaming.kv != nullptr && !inside) device.Join();
    scratch.Rewind(mark);
    return;
  }
  VisitFormat(kv.page.format, [&](auto chosen) {
    if (kv.page.head_dim == 64) return LaunchColumns<chosen(), 64>(device, args, listed, staged, eights, grid);
    LaunchColumns<chosen(), 128>(device, args, listed, staged, eights, grid);
  });
  if (rows.streaming.kv != nullptr && !inside) device.Join();
  scratch.Rewind(mark);
}

// Tokens of the parts of a page whose masses one row leaves.
int PartTokens(const Device& device, const PagedKv& kv) {
  if (IsHopper(device)) return StagedTokensOf(kv.page).part;
  int tokens = 0;
  VisitFormat(kv.page.format, [&](auto format) {
    tokens = kv.page.head_dim == 64 ? DecodeConfig<format(), 64, 1>::kUnit : DecodeConfig<format(), 128, 1>::kUnit;
  });
  return tokens;
}

__global__ void __launch_bounds__(256) FillNothing(float* logs, int64_t count) {
  StartOverlapped();
  const int64_t i = int64_t{blockIdx.x} * 256 + threadIdx.x;
  if (i < count) logs[i] = -INFINITY;
}

// Scratch of the above, of so many columns a slot at most.
size_t DecodeBytes(const Device& device, int rows, int group, const PagedKv& kv, int columns) {
  const int64_t slots = Slots(device, rows, group, kv.num_heads, columns);
  return PartialBytes(slots, columns, kv.page.head_dim);
}

}  // namespace

size_t DecodeScratchBytes(const Device& device, int max_rows_total, int group, const PagedKv& kv, int64_t max_tokens,
                          bool by_chunks) {
  // Rows bound the sequences; a step may need either kernel's scratch.
  size_t hopper = 0;
  if (HopperRowsUsable(device, kv, 1)) {
    hopper = HopperRowsScratchBytes(device, max_rows_total, group, kv, max_tokens);
  }
  const size_t check = AttendsCheck(device, OneSequence(kAlikeRows), group, kv)
                           ? PartialBytes(CheckSlots(device, kv), kAlikeRows * group, kv.page.head_dim)
                           : 0;
  const bool always = !by_chunks && kv.page.format == KvFormat::kBF16 && HopperRowsUsable(device, kv, max_rows_total);
  // Eight columns a slot for every row in the narrowest form, 32 in the widest.
  return std::max({hopper, check, DecodeBytes(device, always ? 1 : max_rows_total, group, kv, 32)});
}

size_t PagesPlanBytes(const Device& device, int max_rows_total, const PagedKv& kv) {
  return HopperRowsUsable(device, kv, 1) ? HopperRowsPlanBytes(max_rows_total) : 0;
}

void PlanPages(Device& device, SeqBatch& batch, int group, const PagedKv& kv, Arena& arena) {
  if (!ForHopperRows(device, batch, group, kv)) return;
  batch.plans[kv.split] = PlanHopperRows(device, batch, group, kv, arena);
}

bool StreamsBesidePages(const Device& device, const StepRows& rows, const PagedKv& kv, const RingKv& ring) {
  const bool check = AttendsCheck(device, rows.batch, rows.shape.group, kv);
  if (rows.batch.max_rows > 1 && !check) return false;
  return !ForHopperRows(device, rows.batch, rows.shape.group, kv) && StreamsInStaged(device, rows, kv, ring);
}

void AttendPages(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, Arena& scratch) {
  if (rows.part.all() && ForHopperRows(device, rows.batch, rows.shape.group, kv))
    return HopperRows(device, to, rows, kv, scratch);
  Decode(device, to, rows, kv, nullptr, {}, scratch);
}

// Of the form of one row's columns, which is the only one that keeps masses. A group of more columns than that form has
// takes a wider one.
int MassParts(const Device& device, int group, const PagedKv& kv) {
  if (group > 8) return 0;
  return kPageTokens / PartTokens(device, kv);
}

void AttendPagesWithMass(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv,
                         const MassOut& mass, Arena& scratch) {
  DUO_CHECK_LE(rows.shape.group, 8);
  if (mass.heads != 0 && (kv.split || kv.window > 0)) {  // nobody comes by what is not held here, or hidden
    const int64_t rows_of_logs = int64_t{std::popcount(mass.heads)} * rows.shape.group;
    const int64_t count = rows_of_logs * mass.pages * (kPageTokens / PartTokens(device, kv));
    LaunchOverlapped(device, FillNothing, dim3(static_cast<unsigned>(CeilDiv(count, int64_t{256}))), dim3(256), 0,
                     mass.logs, count);
  }
  Decode(device, to, rows, kv, nullptr, mass, scratch);
}

size_t ListedScratchBytes(const Device& device, int max_rows_total, int group, const PagedKv& kv, const DecodeLists&,
                          int64_t) {
  return DecodeBytes(device, max_rows_total, group, kv, 8);
}

void AttendListed(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, const DecodeLists& lists,
                  Arena& scratch) {
  Decode(device, to, rows, kv, &lists, {}, scratch);
}

}  // namespace duo::cuda
