// out^T [16 outputs x 8 rows] = W [16 x k] * x^T [k x 8] by mma.m16n8k16: weights are the A operand, so no row of the
// product is padding and a lane's weights are 16 consecutive bytes of two output rows. Which k sits in which fragment
// slot is free as long as x is laid out alike; x goes through shared memory in fragment order.
//
// Work is cut into units of (part of k, 16 outputs), dealt to two blocks a multiprocessor in equal runs; the eight
// warps of a block share a unit's k. Several parts are used when x would not fit or when 16-output tiles alone would
// leave blocks idle: the last part of a tile to arrive adds the others up in a fixed order.
#include <algorithm>

#include "kernels/base/cuda_check.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_small.h"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

// Two blocks of 8 warps a multiprocessor for up to 8 rows; one of 16 for more, whose x needs the room.
constexpr int WarpsFor(int eights) { return eights == 1 ? 8 : 16; }
constexpr int BlocksFor(int eights) { return eights == 1 ? 2 : 1; }
// Bytes of x beside the warps' sums: what 227 KB a multiprocessor leave, on sm_80 what 163 KB leave.
size_t SharedXFor(const Device& device, int eights) {
  if (device.info().capability < 90) return size_t{eights == 1 ? 64u : 120u} << 10;
  return size_t{eights == 1 ? 90u : 190u} << 10;
}
constexpr int kMostParts = 16;
constexpr double kBytesPerSecond = 2.7e12, kPartSeconds = 1.5e-6;  // measured on an H100, for PlanSmall
constexpr int64_t kMostColumns = 32768;                            // 16 rows of a sixteenth of them fit

// A k-block: 16 bytes of codes in each lane, of two output rows. Int4 in groups smaller than 128 is read in pieces, so
// that a piece's four lanes lie in one group.
template <DType kType, int kGroup>
struct BlockShape {
  static constexpr int kBits = kType == DType::kI4 ? 4 : kType == DType::kBF16 || kType == DType::kF16 ? 16 : 8;
  static constexpr int kColumns = 4 * 128 / kBits;  // k's of a block: 32, 64 or 128
  static constexpr int kSteps = kColumns / 16;
  static constexpr int kPieces = kType == DType::kI4 ? 128 / kGroup : 1;
  static constexpr int kPieceBytes = 16 / kPieces;
  static constexpr int kStepsPerPiece = kSteps / kPieces;
  static constexpr int kDepth = kBits == 8 ? 8 : 4;  // k-blocks in flight per warp
  static constexpr int kUnits = kSteps / 2;          // 16-byte pieces of x per (row, lane quarter)
};

template <DType kType>
__device__ __forceinline__ uint32_t WeightPair(uint32_t word, int u) {
  if constexpr (kType == DType::kBF16) return word;
  if constexpr (kType == DType::kF16) {
    float low, high;
    asm("{ .reg .b16 a, b; mov.b32 {a, b}, %2; cvt.f32.f16 %0, a; cvt.f32.f16 %1, b; }"
        : "=f"(low), "=f"(high)
        : "r"(word));
    return PackBf16(low, high);
  }
  if constexpr (kType == DType::kI4) return NibblesPlus128(word >> (4 * u));
  if constexpr (kType == DType::kF8E4M3) return F8HighBytes(u == 0 ? word << 8 : word);
  return SignedBytes(word >> (8 * u));
}

struct SmallArgs {
  void* out;
  int64_t out_stride;
  const bf16* x;
  int64_t x_stride;
  int rows;
  Weight weight;
  int tiles, parts, blocks;  // of 16 outputs; of k; k-blocks in all
  float* partial;            // [part][tile][256]
  uint32_t* arrivals;        // [tile]
};

template <DType kType, int kGroup>
struct RawBlock {
  using S = BlockShape<kType, kGroup>;
  uint32_t w[2][4];
  uint32_t params[kType == DType::kI4 ? S::kPieces : 1][2];
};

template <DType kType, int kGroup, int kN, bool kFloatOut>
__global__ void __launch_bounds__(32 * WarpsFor(kN), BlocksFor(kN)) SmallLinearKernel(SmallArgs args) {
  using S = BlockShape<kType, kGroup>;
  constexpr int kWarps = WarpsFor(kN);
  constexpr int kTile = 16 * 8 * kN, kDepth = S::kDepth;
  extern __shared__ uint4 shared[];
  __shared__ float reduce[2][kWarps][kTile];
  __shared__ bool last_to_arrive;
  const Weight& weight = args.weight;
  const int lane = threadIdx.x % 32, w = threadIdx.x / 32, g = lane / 4, c = lane % 4;
  const int units = args.tiles * args.parts;
  const int begin = static_cast<int>(int64_t{units} * blockIdx.x / gridDim.x);
  const int end = static_cast<int>(int64_t{units} * (blockIdx.x + 1) / gridDim.x);
  if (begin == end) return;
  const int64_t row_bytes = weight.cols * S::kBits / 8;
  auto part_begin = [&](int part) { return static_cast<int>(int64_t{args.blocks} * part / args.parts); };
  // Where a unit's weights lie for this lane: worked out once a unit, so that a load is an addition.
  struct Place {
    const uint8_t* codes[2];
    const uint32_t* params[2];
    int part, tile;
    int first, blocks;  // this warp's k-blocks, consecutive: a row's bytes are then read in order
  };
  auto find = [&](int unit) {
    Place place = {};
    place.part = args.parts == 1 ? 0 : unit / args.tiles;
    place.tile = unit - place.part * args.tiles;
    const int first = part_begin(place.part);
    const int in_part = part_begin(place.part + 1) - first;
    place.first = in_part * w / kWarps;
    place.blocks = in_part * (w + 1) / kWarps - place.first;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int64_t output = min(int64_t{place.tile} * 16 + g + 8 * h, weight.rows - 1);
      place.codes[h] =
          static_cast<const uint8_t*>(weight.data) + output * row_bytes + int64_t{first + place.first} * 64;
      if constexpr (kType == DType::kI4) {
        place.params[h] = reinterpret_cast<const uint32_t*>(weight.groups) + output * (args.blocks * S::kPieces) +
                          (first + place.first) * S::kPieces;
      }
    }
    return place;
  };
  RawBlock<kType, kGroup> raw[kDepth];
  auto load = [&](RawBlock<kType, kGroup>& r, const Place& place, int index) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const uint8_t* codes = place.codes[h] + index * 64;
#pragma unroll
      for (int p = 0; p < S::kPieces; ++p) {
        LoadStreaming<S::kPieceBytes>(&r.w[h][p * S::kPieceBytes / 4], codes + (p * 4 + c) * S::kPieceBytes);
        if constexpr (kType == DType::kI4) r.params[p][h] = __ldg(place.params[h] + index * S::kPieces + p);
      }
    }
  };

  // x of a part, in fragment order: [block][unit of 16 bytes][row][lane quarter]; then sums of x per int4 group.
  const int rows = args.rows;
  float* x_sums =
      reinterpret_cast<float*>(shared + int64_t{(args.blocks + args.parts - 1) / args.parts} * S::kUnits * rows * 4);
  // Eight consecutive x make one 16-byte unit; the lanes that hold an int4 group's units add up its sum.
  auto stage = [&](int part) {
    constexpr int kChunks = S::kColumns / 8, kUnitsPerPiece = S::kUnits / S::kPieces;
    constexpr int kGroupLanes = kType == DType::kI4 ? kGroup / 8 : 1;
    const int first = part_begin(part), count = part_begin(part + 1) - first, chunks = count * kChunks;
    for (int row = 0; row < rows; ++row) {
      const bf16* x = args.x + row * args.x_stride + int64_t{first} * S::kColumns;
      // Whole warps go round together: the sums shuffle.
      for (int i = threadIdx.x; i < (chunks + 31) / 32 * 32; i += 32 * kWarps) {
        const int block = i / kChunks, chunk = i % kChunks;
        uint4 v = i < chunks ? *reinterpret_cast<const uint4*>(x + i * 8) : make_uint4(0, 0, 0, 0);
        if constexpr (kType == DType::kI4) {
          float sum = LowBf16(v.x) + HighBf16(v.x) + LowBf16(v.y) + HighBf16(v.y) + LowBf16(v.z) + HighBf16(v.z) +
                      LowBf16(v.w) + HighBf16(v.w);
#pragma unroll
          for (int lanes = 1; lanes < kGroupLanes; lanes *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
          if (i < chunks && i % kGroupLanes == 0) x_sums[i / kGroupLanes * rows + row] = sum;
          // A word holds codes 0-7; its pairs are (0, 4), (1, 5), (2, 6), (3, 7).
          v = {__byte_perm(v.x, v.z, 0x5410), __byte_perm(v.x, v.z, 0x7632), __byte_perm(v.y, v.w, 0x5410),
               __byte_perm(v.y, v.w, 0x7632)};
        } else if constexpr (S::kBits == 8) {  // a word holds codes 0-3; its pairs are (0, 2), (1, 3)
          v = {__byte_perm(v.x, v.y, 0x5410), __byte_perm(v.x, v.y, 0x7632), __byte_perm(v.z, v.w, 0x5410),
               __byte_perm(v.z, v.w, 0x7632)};
        }
        if constexpr (kType == DType::kF8E4M3) {
          auto scaled = [](uint32_t pair) { return PackBf16(LowBf16(pair) * 0x1p64f, HighBf16(pair) * 0x1p64f); };
          v = {scaled(v.x), scaled(v.y), scaled(v.z), scaled(v.w)};
        }
        if (i >= chunks) continue;
        const int piece = chunk / (4 * kUnitsPerPiece), in_piece = chunk % (4 * kUnitsPerPiece);
        const int quarter = in_piece / kUnitsPerPiece, unit = piece * kUnitsPerPiece + in_piece % kUnitsPerPiece;
        shared[((block * S::kUnits + unit) * rows + row) * 4 + quarter] = v;
      }
    }
  };

  int staged = -1;
  Place place = find(begin);
#pragma unroll
  for (int i = 0; i < kDepth; ++i) {
    if (i < place.blocks) load(raw[i], place, i);
  }
  // The weights above do not depend on earlier kernels; x and everything written does.
  LetDependentsStart();
  WaitForDependency();
  for (int unit = begin; unit < end; ++unit) {
    const int part = place.part, tile = place.tile;
    if (part != staged) {
      __syncthreads();
      stage(part);
      __syncthreads();
      staged = part;
    }
    // What finishes this thread's output is fetched before the weights are waited for.
    const int row = threadIdx.x / 16;
    const int64_t output = int64_t{tile} * 16 + threadIdx.x % 16;
    const bool mine_to_write = static_cast<int>(threadIdx.x) < kTile && row < rows && output < weight.rows;
    float scale = 1, bias = 0;
    if (mine_to_write) {
      if constexpr (kType == DType::kF8E4M3 || kType == DType::kI8) scale = weight.scales[output];
      if (weight.bias != nullptr) bias = weight.bias[output];
    }
    float acc[kN][4] = {};
    const int mine = place.blocks;
    Place next = {};
    if (unit + 1 < end) next = find(unit + 1);
    // At least one round, so that a warp without blocks here still fetches those of the next unit.
    for (int base = 0; base == 0 || base < mine; base += kDepth) {
#pragma unroll
      for (int i = 0; i < kDepth; ++i) {
        if (base + i < mine) {
          const int block = place.first + base + i;  // inside the part
#pragma unroll
          for (int p = 0; p < S::kPieces; ++p) {
            float part_sum[kN][4] = {};
            float(&target)[kN][4] = kType == DType::kI4 ? part_sum : acc;
#pragma unroll
            for (int unit_in = p * S::kStepsPerPiece / 2; unit_in < (p + 1) * S::kStepsPerPiece / 2; ++unit_in) {
              uint4 b[kN];
#pragma unroll
              for (int n = 0; n < kN; ++n) {
                b[n] = 8 * n + g < rows ? shared[((block * S::kUnits + unit_in) * rows + 8 * n + g) * 4 + c]
                                        : make_uint4(0, 0, 0, 0);
              }
#pragma unroll
              for (int half = 0; half < 2; ++half) {
                constexpr int kPairs = S::kBits == 16 ? 1 : S::kBits == 8 ? 2 : 4;
                const int r0 = unit_in * 4 + half * 2, r1 = r0 + 1;
                const uint32_t a0 = WeightPair<kType>(raw[i].w[0][r0 / kPairs], r0 % kPairs);
                const uint32_t a1 = WeightPair<kType>(raw[i].w[1][r0 / kPairs], r0 % kPairs);
                const uint32_t a2 = WeightPair<kType>(raw[i].w[0][r1 / kPairs], r1 % kPairs);
                const uint32_t a3 = WeightPair<kType>(raw[i].w[1][r1 / kPairs], r1 % kPairs);
#pragma unroll
                for (int n = 0; n < kN; ++n) {
                  Mma(target[n], a0, a1, a2, a3, half == 0 ? b[n].x : b[n].z, half == 0 ? b[n].y : b[n].w);
                }
              }
            }
            if constexpr (kType == DType::kI4) {
#pragma unroll
              for (int h = 0; h < 2; ++h) {
                const uint32_t bits = raw[i].params[p][h];
                const float scale = F16Value(bits);
                const float zero = F16Value(bits >> 16) - 128.0f * scale;
#pragma unroll
                for (int n = 0; n < kN; ++n) {
#pragma unroll
                  for (int j = 0; j < 2; ++j) {
                    const int row = 8 * n + 2 * c + j;
                    const float sum = row < rows ? x_sums[(block * S::kPieces + p) * rows + row] : 0.0f;
                    acc[n][2 * h + j] += scale * part_sum[n][2 * h + j] + zero * sum;
                  }
                }
              }
            }
          }
        }
        // Refill the slot: from this unit, or in its last round from the next one.
        if (base + kDepth < mine) {
          if (base + kDepth + i < mine) load(raw[i], place, base + kDepth + i);
        } else if (i < next.blocks) {
          load(raw[i], next, i);
        }
      }
    }

    place = next;
    float(&buffer)[kWarps][kTile] = reduce[(unit - begin) % 2];
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        buffer[w][(8 * n + 2 * c + j % 2) * 16 + g + 8 * (j / 2)] = acc[n][j];  // [row][output]
      }
    }
    __syncthreads();
    float total = 0;
    if (mine_to_write) {
#pragma unroll
      for (int v = 0; v < kWarps; ++v) total += buffer[v][threadIdx.x];
    }
    bool write = mine_to_write;
    if (args.parts > 1) {
      float* slots = args.partial + int64_t{tile} * 256 + threadIdx.x;
      const int64_t stride = int64_t{args.tiles} * 256;
      if (mine_to_write) slots[part * stride] = total;
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) {
        last_to_arrive = atomicInc(&args.arrivals[tile], args.parts - 1) == static_cast<uint32_t>(args.parts - 1);
      }
      __syncthreads();
      write = mine_to_write && last_to_arrive;
      if (write) {
        __threadfence();
        total = 0;
        for (int p = 0; p < args.parts; ++p) total += __ldcg(slots + p * stride);
      }
    }
    if (write) {
      if constexpr (kType == DType::kF8E4M3) total *= 0x1p56f;
      total = total * scale + bias;
      if constexpr (kFloatOut) {
        static_cast<float*>(args.out)[row * args.out_stride + output] = total;
      } else {
        static_cast<bf16*>(args.out)[row * args.out_stride + output] = ToBf16(total);
      }
    }
  }
}

int BlockColumns(DType type) {
  return type == DType::kI4 ? 128 : type == DType::kF8E4M3 || type == DType::kI8 ? 64 : 32;
}

struct SmallPlan {
  int tiles, parts, blocks, grid;
  size_t shared;
};
SmallPlan PlanSmall(const Device& device, int64_t rows, const Weight& weight) {
  SmallPlan plan = {};
  plan.tiles = static_cast<int>((weight.rows + 15) / 16);
  plan.blocks = static_cast<int>(weight.cols / BlockColumns(weight.dtype));
  const int eights = rows <= 8 ? 1 : 2;
  const int grid = BlocksFor(eights) * device.info().multiprocessors;
  auto shared_bytes = [&](int parts) {
    const size_t blocks = (plan.blocks + parts - 1) / parts;
    const size_t sums = weight.dtype == DType::kI4 ? blocks * (128 / weight.group) * rows * sizeof(float) : 0;
    return blocks * BlockColumns(weight.dtype) * rows * sizeof(bf16) + sums;
  };
  int best = 0;
  double best_time = 0;
  for (int parts = 1; parts <= std::min(kMostParts, plan.blocks); ++parts) {
    if (shared_bytes(parts) > SharedXFor(device, eights)) continue;
    const int64_t units = int64_t{plan.tiles} * parts;
    // Time by the bytes, the blocks left idle in the last round, and what a unit's partial sum costs.
    const double share = static_cast<double>(units) / ((units + grid - 1) / grid * grid);
    const double time =
        weight.bytes() / (kBytesPerSecond * share) + (parts > 1 ? kPartSeconds * ((units + grid - 1) / grid) : 0);
    if (best == 0 || time < best_time) best = parts, best_time = time;
  }
  plan.parts = best;
  plan.grid = static_cast<int>(std::min<int64_t>(grid, int64_t{plan.tiles} * plan.parts));
  plan.shared = best == 0 ? 0 : (shared_bytes(best) + 15) / 16 * 16;
  return plan;
}

template <DType kType, int kGroup, int kN, bool kFloatOut>
void Launch(Device& device, const SmallArgs& args, const SmallPlan& plan) {
  const auto kernel = SmallLinearKernel<kType, kGroup, kN, kFloatOut>;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, SharedXFor(device, kN)));
  LaunchOverlapped(device, kernel, dim3(plan.grid), dim3(32 * WarpsFor(kN)), plan.shared, args);
}
template <DType kType, int kGroup>
void LaunchType(Device& device, const SmallArgs& args, const SmallPlan& plan, bool float_out) {
  if (args.rows <= 8) {
    return float_out ? Launch<kType, kGroup, 1, true>(device, args, plan)
                     : Launch<kType, kGroup, 1, false>(device, args, plan);
  }
  return float_out ? Launch<kType, kGroup, 2, true>(device, args, plan)
                   : Launch<kType, kGroup, 2, false>(device, args, plan);
}

}  // namespace

bool SmallLinearFits(const Weight& weight) {
  switch (weight.dtype) {
    case DType::kBF16:
    case DType::kF16:
    case DType::kF8E4M3:
    case DType::kI8:
    case DType::kI4:
      return weight.cols % BlockColumns(weight.dtype) == 0 && weight.cols <= kMostColumns &&
             weight.rows <= 16 * Device::CudaState::kCounters && reinterpret_cast<uintptr_t>(weight.data) % 16 == 0;
    default:
      return false;
  }
}

size_t SmallLinearScratchBytes(const Device& device, int64_t rows, const Weight& weight) {
  size_t most = 0;
  for (int64_t r = 1; r <= rows; ++r) {  // parts, and with them the partial sums, are not monotonic in the rows
    const SmallPlan plan = PlanSmall(device, r, weight);
    if (plan.parts > 1) most = std::max(most, size_t{256} * plan.tiles * plan.parts * sizeof(float));
  }
  return Arena::Rounded(most);
}

void SmallLinear(Device& device, View out, View x, const Weight& weight, Arena& scratch) {
  const size_t mark = scratch.used();
  const SmallPlan plan = PlanSmall(device, x.rows, weight);
  DUO_CHECK_GT(plan.parts, 0);
  DUO_CHECK(reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride % 8 == 0);
  SmallArgs args = {};
  args.out = out.data;
  args.out_stride = out.stride;
  args.x = x.as<bf16>();
  args.x_stride = x.stride;
  args.rows = static_cast<int>(x.rows);
  args.weight = weight;
  args.tiles = plan.tiles;
  args.parts = plan.parts;
  args.blocks = plan.blocks;
  if (plan.parts > 1) {
    args.partial = static_cast<float*>(scratch.Take(size_t{256} * plan.tiles * plan.parts * sizeof(float)));
  }
  args.arrivals = State(device).counters;
  const bool float_out = out.dtype == DType::kF32;
  switch (weight.dtype) {
    case DType::kBF16:
      LaunchType<DType::kBF16, 0>(device, args, plan, float_out);
      break;
    case DType::kF16:
      LaunchType<DType::kF16, 0>(device, args, plan, float_out);
      break;
    case DType::kF8E4M3:
      LaunchType<DType::kF8E4M3, 0>(device, args, plan, float_out);
      break;
    case DType::kI8:
      LaunchType<DType::kI8, 0>(device, args, plan, float_out);
      break;
    default:
      if (weight.group == 128) LaunchType<DType::kI4, 128>(device, args, plan, float_out);
      if (weight.group == 64) LaunchType<DType::kI4, 64>(device, args, plan, float_out);
      if (weight.group == 32) LaunchType<DType::kI4, 32>(device, args, plan, float_out);
  }
  scratch.Rewind(mark);
}

}  // namespace duo::cuda
