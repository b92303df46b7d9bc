// few_rows.cuh's products for codes in groups by linear_pieces.cuh: groups of two levels, int8 in groups and codes of a
// table. How k is cut among warps follows from k alone and sums are added up in one order, so that a slot has the same
// bits whatever rows are beside it, and in either kernel of down.
#pragma once

#include "kernels/cuda/experts/few_rows_tiles.cuh"
#include "kernels/cuda/linear/linear_pieces.cuh"

namespace duo::cuda {

constexpr int kPieceSlots = 2;        // of an expert at once
constexpr int kPieceZeroBytes = 128;  // what lanes without x read, ahead of x

// Warps that share a tile's k: so many that each can have all of its blocks under way, up to all of a block's.
__host__ __device__ inline int PieceParts(int blocks) {
  int parts = 1;
  while (parts < kExpertWarps && CeilDiv(blocks, parts) > PieceShape<DType::kI4>::kDepth) parts *= 2;
  return parts;
}

// The k-blocks of a warp, and the room of its x.
template <typename Kind>
struct PieceShare {
  using S = typename Kind::Shape;
  int first, count, columns;  // columns: from the first on, to the end of the row

  __device__ PieceShare(int cols, int part, int parts) {
    const int blocks = CeilDiv(cols, S::kColumns);
    first = blocks * part / parts;
    count = blocks * (part + 1) / parts - first;
    columns = cols - first * S::kColumns;
  }
  // Blocks of the room: whole kAtOnces.
  __host__ __device__ static int Room(int cols, int parts) {
    return RoundUp(CeilDiv(CeilDiv(cols, S::kColumns), parts), S::kAtOnce);
  }
  // Shared memory of `stages` of x, each of `rows` rows of one warp's room.
  static size_t Bytes(int64_t cols, int parts, int rows, int stages) {
    return kPieceZeroBytes + size_t(Room(static_cast<int>(cols), parts)) * rows * stages * PieceX::Bytes<Kind::kType>();
  }
  // The stage's room of `stages`.
  __device__ static PieceX Place(uint4* shared, int cols, int parts, int rows, int stage, int stages) {
    const int lines = Room(cols, parts) * rows;
    uint8_t* elements = reinterpret_cast<uint8_t*>(shared) + kPieceZeroBytes;
    PieceX x;
    x.zeros = shared + 1;
    x.elements = elements + stage * lines * S::kXBytes;
    x.sums = reinterpret_cast<float*>(elements + stages * lines * S::kXBytes) + stage * lines * 4;
    return x;
  }
  // rows: of the bank, those of outputs g and g + 8.
  __device__ PiecePlace PlaceOf(int cols, const int64_t (&rows)[2]) const {
    const int row_pieces = cols / S::kPieceColumns, at = first * 4 + static_cast<int>(threadIdx.x % 4);
    PiecePlace place = {};
    place.last = row_pieces - 1 - at;
    place.blocks = count;
#pragma unroll
    for (int h = 0; h < 2; ++h) place.first[h] = static_cast<uint32_t>(rows[h]) * row_pieces + at;
    return place;
  }
};

template <typename Kind>
__device__ __forceinline__ void StartPieces(PieceRing<Kind>& ring, const PieceWeights& weights,
                                            const PiecePlace& place) {
#pragma unroll
  for (int i = 0; i < PieceRing<Kind>::kDepth; ++i) {
    if (i < place.blocks) ring.Load(i, weights, place, i);
  }
}

// A warp's sums of 16 outputs, a row after another.
template <int kRows>
using PieceSums = float[kRows][kTileOutputs];
template <int kRows>
__device__ __forceinline__ float AddPieceSums(const PieceSums<kRows>* of_parts, int parts, int slot, int output) {
  float sum = of_parts[0][slot][output];
  for (int part = 1; part < parts; ++part) sum += of_parts[part][slot][output];
  return sum;
}

// ForTiles by pieces: row(expert, tile, output): of the bank. bias(expert, tile, output): fetched ahead of the codes.
// finish(tile, output, slot's id, slot, sums of the tile's parts, bias): by one thread an output of it, of `outputs`.
template <typename Kind, int kRows, typename Row, typename Bias, typename Finish>
__device__ __forceinline__ void ForPieceTiles(const ExpertProduct& p, const PieceWeights& weights, const TileWork& work,
                                              int outputs, const Row& row, const Bias& bias, const Finish& finish) {
  using Share = PieceShare<Kind>;
  extern __shared__ uint4 shared_x[];
  __shared__ PieceSums<kRows> sums[2][kExpertWarps];
  __shared__ int ids[2][kRows];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, tiles = kExpertWarps / work.parts;
  const int cols = static_cast<int>(p.bank.cols);
  UnitWalk walk(p.lists, work);
  if (walk.done) return;
  const Share share(cols, warp % work.parts, work.parts);
  const PieceX x = Share::Place(shared_x, cols, work.parts, kRows, warp, kExpertWarps);
  auto place_of = [&](const UnitWalk& at) {
    const int64_t tile = int64_t{at.unit} * tiles + warp / work.parts;
    const int64_t rows[2] = {row(at.of.expert, tile, g), row(at.of.expert, tile, g + 8)};
    return share.PlaceOf(cols, rows);
  };
  PieceProducts<Kind, kRows> products;
  PieceRing<Kind> ring;
  PiecePlace place = place_of(walk);
  StartPieces(ring, weights, place);
  if (threadIdx.x < 2) shared_x[1 + threadIdx.x] = make_uint4(0, 0, 0, 0);
  WaitForDependency();
  LetDependentsStart();
  __syncthreads();
  int parity = 0, slots_parity = 0;
  while (!walk.done) {
    const int count = min(kRows, walk.of.end - walk.first_slot);
    if (walk.new_slots) {
      slots_parity ^= 1;
      auto slot_at = [&](int s) {
        return walk.first_slot + s == walk.of.begin ? walk.of.first_slot : p.lists.slots[walk.first_slot + s];
      };
      if (threadIdx.x < count) ids[slots_parity][threadIdx.x] = slot_at(threadIdx.x);
      const auto row_of = [&](int s) {
        return p.x + slot_at(s) / p.slots_a_row * p.x_stride + share.first * Share::S::kColumns;
      };
      products.Stage(row_of, count, share.count, share.columns, x, lane);
      __syncwarp();
    }
    UnitWalk next = walk;
    next.Next(p.lists, work);
    PiecePlace next_place = {};
    if (!next.done) next_place = place_of(next);
    // A thread finishes one output at most.
    static_assert(kExpertWarps * kRows * kTileOutputs <= 32 * kExpertWarps);
    const int output = threadIdx.x % outputs, slot = threadIdx.x / outputs % count, t = threadIdx.x / outputs / count;
    const int64_t tile = int64_t{walk.unit} * tiles + t;
    float2 of_output = {};
    if (t < tiles) of_output = bias(walk.of.expert, tile, output);
    products.Clear();
    MultiplyPieces(products, ring, weights, place, next_place, x, lane);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float2 total = products.Total(r, products.unit(r));
      if (lane % 4 == 0) {
        sums[parity][warp][r][g] = total.x;
        sums[parity][warp][r][g + 8] = total.y;
      }
    }
    __syncthreads();
    if (t < tiles) finish(tile, output, ids[slots_parity][slot], slot, sums[parity] + t * work.parts, of_output);
    parity ^= 1;
    walk = next;
    place = next_place;
  }
}

// GateUpKernel. A tile has eight columns of gate and the same of up.
template <typename Kind, int kRows>
__global__ void __launch_bounds__(32 * kExpertWarps, 2)
    PieceGateUpKernel(bf16* product, ExpertProduct p, PieceWeights weights, Gating gating, TileWork work) {
  WaitForDependency();  // for the lists; the kernel after the next may rely on them from its beginning
  const int64_t n = p.bank.rows / p.experts / 2;
  auto row = [&](int expert, int64_t tile, int output) {
    return expert * 2 * n + min(tile * 8 + output % 8, n - 1) + (output < 8 ? 0 : n);
  };
  const auto bias = [&](int expert, int64_t tile, int output) -> float2 {
    const int64_t column = tile * 8 + output;
    if (p.bank.bias == nullptr || column >= n) return {0, 0};
    const float* of_expert = p.bank.bias + expert * 2 * n + column;
    return {of_expert[0], of_expert[n]};
  };
  const auto finish = [&](int64_t tile, int output, int id, int slot, const PieceSums<kRows>* sums, float2 biases) {
    const int64_t column = tile * 8 + output;
    if (column >= n) return;
    const float gate = AddPieceSums<kRows>(sums, work.parts, slot, output) + biases.x;
    const float up = AddPieceSums<kRows>(sums, work.parts, slot, output + 8) + biases.y;
    product[id * n + column] = ToBf16(gating.Of(ToFloat(ToBf16(gate)), ToFloat(ToBf16(up))));
  };
  ForPieceTiles<Kind, kRows>(p, weights, work, 8, row, bias, finish);
}

// DownKernel. early: the lists may be read before the kernel ahead has ended.
template <typename Kind>
__global__ void __launch_bounds__(32 * kExpertWarps, 2)
    PieceDownKernel(float* y, ExpertProduct p, PieceWeights weights, TileWork work, bool early) {
  if (!early) WaitForDependency();
  const int64_t dim = p.bank.rows / p.experts;
  auto row = [&](int expert, int64_t tile, int output) {
    return expert * dim + min(tile * kTileOutputs + output, dim - 1);
  };
  const auto bias = [&](int expert, int64_t tile, int output) -> float2 {
    const int64_t column = tile * kTileOutputs + output;
    return {p.bank.bias == nullptr || column >= dim ? 0.0f : p.bank.bias[expert * dim + column], 0};
  };
  const auto finish = [&](int64_t tile, int output, int id, int slot, const PieceSums<kPieceSlots>* sums,
                          float2 biases) {
    const int64_t column = tile * kTileOutputs + output;
    if (column < dim) y[id * dim + column] = AddPieceSums<kPieceSlots>(sums, work.parts, slot, output) + biases.x;
  };
  ForPieceTiles<Kind, kPieceSlots>(p, weights, work, kTileOutputs, row, bias, finish);
}

// Of one row: out [dim] = sum over its experts of weight * down, a block for 16 outputs, a job of a warp for an expert
// and a part of k. Shared memory: x of each job, then a job's unit and [job][output] sums.
template <typename Kind>
__global__ void __launch_bounds__(32 * kExpertWarps, 2)
    PieceDownOneRowKernel(bf16* out, ExpertProduct p, PieceWeights weights, Routing routing, int parts, bool early) {
  using Share = PieceShare<Kind>;
  extern __shared__ uint4 shared_x[];
  const int64_t dim = p.bank.rows / p.experts, first_output = int64_t{blockIdx.x} * kTileOutputs;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, jobs = routing.chosen * parts;
  const int cols = static_cast<int>(p.bank.cols);
  // kExpertWarps is a multiple of the parts: all jobs of a warp have the same.
  const Share share(cols, warp % parts, parts);
  auto place_of = [&](int job) {
    PiecePlace none = {};
    if (job >= jobs) return none;
    const int64_t first_row = __ldcg(routing.experts + job / parts) * dim;
    const int64_t rows[2] = {first_row + min(first_output + g, dim - 1),
                             first_row + min(first_output + g + 8, dim - 1)};
    return share.PlaceOf(cols, rows);
  };
  auto x_of = [&](int job) { return Share::Place(shared_x, cols, parts, 1, job, jobs); };
  float* units = x_of(jobs).sums;
  float* sums = units + RoundUp(jobs, 4);
  PieceProducts<Kind, 1> products;
  PieceRing<Kind> ring;
  if (!early) WaitForDependency();
  PiecePlace place = place_of(warp);
  StartPieces(ring, weights, place);
  if (threadIdx.x < 2) shared_x[1 + threadIdx.x] = make_uint4(0, 0, 0, 0);
  WaitForDependency();
  LetDependentsStart();
  const SlotsHere<false> slots(p.lists, routing.chosen);
  const DownEnds ends(p.bank.bias, slots, routing, first_output, dim);
  for (int job = warp; job < jobs; job += kExpertWarps) {
    const auto row = [&](int) { return p.x + job / parts * p.x_stride + share.first * Share::S::kColumns; };
    products.Stage(row, 1, share.count, share.columns, x_of(job), lane);
    if (lane == 0) units[job] = products.unit(0);
  }
  __syncthreads();
  for (int job = warp; job < jobs; job += kExpertWarps) {
    const PiecePlace next = place_of(job + kExpertWarps);
    products.Clear();
    MultiplyPieces(products, ring, weights, place, next, x_of(job), lane);
    place = next;
    const float2 total = products.Total(0, units[job]);
    if (lane % 4 == 0) {
      sums[job * kTileOutputs + g] = total.x;
      sums[job * kTileOutputs + g + 8] = total.y;
    }
  }
  __syncthreads();
  ends.Add(sums, parts, routing.chosen);
  __syncthreads();
  ends.Store(out, sums, parts, slots, routing, first_output, dim);
}

}  // namespace duo::cuda
