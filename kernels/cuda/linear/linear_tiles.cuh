// The kernel behind linear_tiles.h: out^T [outputs x rows] = W [outputs x k] * x^T [k x rows], Hopper's tensor cores
// with decoded codes as the operand in registers and x as the one in shared memory.
//
// A block has kOutputs outputs and a part of k; all rows at once, so that a code is decoded once. One thread fetches
// stages of a k-block, codes by the tensor copy engine and x in the layout that PackRows made; two warp groups decode
// and multiply, each decoding 64 columns while its products of the 64 before are under way. The parts of k are a
// cluster's blocks: each leaves its sums in its shared memory, and each adds up, in the order of the parts, the rows
// that are its own.
#pragma once

#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/hopper/score_rows.cuh"
#include "kernels/cuda/linear/tile_codes.cuh"

namespace duo::cuda {

struct TilesWork {
  CUtensorMap codes;  // boxes of 64 bytes x kOutputs
  const bf16* x;      // PackRows' layout
  Weight weight;
  void* out;
  int64_t out_stride;
  bool out_float, by_fours;  // by_fours: four outputs of a row can be stored at once
  int rows, blocks;          // of x; k-blocks, whole pairs of them where codes have 8 bits: past the end all are zeros
  int pair_shift, group_shift;  // groups: log2 of the columns that have a pair of f16, and of a group's
};

template <typename Codes, int kTiles, int kN>
struct TilesShape {
  static constexpr int kOutputs = 128 * kTiles;  // two warp groups
  static constexpr int kCodeBytes = kOutputs * 64, kXBytes = Codes::kSubs * kN * 128;
  static constexpr int kStageBytes = kCodeBytes + kXBytes;
  static constexpr int kRoom = 216 << 10;
  static constexpr int kStages = kRoom / kStageBytes < 10 ? kRoom / kStageBytes : 10;
  static constexpr int kSumStride = kOutputs + 4;  // floats from one row's sums to the next: no two lanes in a bank
  static constexpr int kSumBytes = kN * kSumStride * 4;
  static constexpr int kBufferBytes = kStages * kStageBytes > kSumBytes ? kStages* kStageBytes : kSumBytes;
  static constexpr int kSharedBytes = 1024 + kBufferBytes + 16 * kStages;
  static constexpr int kThreads = 384;
  static constexpr int kAtOnce = 2 / Codes::kSubs;  // k-blocks of two sets of decoded codes

  // The first k-block of a part.
  __device__ __forceinline__ static int Begin(const TilesWork& w, int part, int parts) {
    return static_cast<int>(int64_t{w.blocks / kAtOnce} * part / parts) * kAtOnce;
  }
};

// x [rows][cols] -> [k-block][64 columns][kN rows][64], columns in the order in which codes meet them, pieces of 16
// bytes swizzled as the products read them; rows and columns past the end are zeros. A thread has one step's 16 columns
// of a row.
template <typename Codes, int kN>
__global__ void PackRows(bf16* packed, const bf16* x, int64_t stride, int rows, int cols, int blocks) {
  StartOverlapped();
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const int step = i % Codes::kSteps, block = i / Codes::kSteps % blocks, row = i / Codes::kSteps / blocks;
  if (row >= kN) return;
  uint32_t out[2][4] = {};
  if (row < rows) {
    const int column = block * Codes::kColumns + 4 * step;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (column + c * Codes::kLaneColumns >= cols) break;
      const uint2 four = *reinterpret_cast<const uint2*>(x + row * stride + column + c * Codes::kLaneColumns);
      float v[4] = {LowBf16(four.x), HighBf16(four.x), LowBf16(four.y), HighBf16(four.y)};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        out[half][c] =
            PackBf16(v[Codes::InFour(half, 0)] * Codes::kXFactor, v[Codes::InFour(half, 1)] * Codes::kXFactor);
      }
    }
  }
  bf16* to = packed + ((int64_t{block} * Codes::kSubs + step / 4) * kN + row) * 64;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    reinterpret_cast<uint4*>(to)[(step % 4 * 2 + half) ^ (row % 8)] = {out[half][0], out[half][1], out[half][2],
                                                                       out[half][3]};
  }
}

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

// By one thread: fetches the stages of k-blocks [begin, end).
template <typename Shape>
__device__ __forceinline__ void FetchStages(const TilesWork& w, uint32_t shared, uint32_t full, uint32_t empty,
                                            int begin, int end) {
  const int first_output = blockIdx.y * Shape::kOutputs;
  auto codes = [&](int stage, int block) {
    BarrierArriveExpect(full + 8 * stage, Shape::kStageBytes);
    CopyBox2(shared + stage * Shape::kStageBytes + Shape::kXBytes, &w.codes, block * 64, first_output,
             full + 8 * stage);
  };
  auto rows = [&](int stage, int block) {
    CopyBytes(shared + stage * Shape::kStageBytes, w.x + int64_t{block} * (Shape::kXBytes / 2), Shape::kXBytes,
              full + 8 * stage);
  };
  // Codes do not depend on earlier kernels; x does.
  const int at_once = min(Shape::kStages, end - begin);
  for (int i = 0; i < at_once; ++i) codes(i, begin + i);
  WaitForDependency();
  for (int i = 0; i < at_once; ++i) rows(i, begin + i);
  Ring<Shape::kStages> ring;
  for (int block = begin + at_once; block < end; ++block) {
    BarrierWait(empty + 8 * ring.stage, ring.phase);
    codes(ring.stage, block);
    rows(ring.stage, block);
    ring.Next();
  }
}

// A computing warp group's sums: of kTiles times 64 outputs and kN rows.
template <int kTiles, int kN>
struct TileSums {
  static constexpr int kWide = kN < 128 ? kN : 128, kParts = kN / kWide;  // rows of one product
  float c[kTiles][kParts][kWide / 2];
};

template <typename Codes, int kTiles, int kN>
__device__ __forceinline__ void MultiplyStages(const TilesWork& w, uint32_t shared, uint32_t full, uint32_t empty,
                                               int begin, int end, TileSums<kTiles, kN>& sums) {
  using Shape = TilesShape<Codes, kTiles, kN>;
  using Sums = TileSums<kTiles, kN>;
  using Group = typename Codes::Group;
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4, warp = threadIdx.x / 32;
  // Of the warp's first output in the block; tile t's are 64 further on, and lane g has outputs g and g + 8.
  const int in_block = warp / 4 * (64 * kTiles) + warp % 4 * 16;
  GroupReader<Codes> readers[kTiles][2];
  auto each_output = [&](auto&& what) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int h = 0; h < 2; ++h) what(t, h);
    }
  };
  auto load_groups = [&](int block) {
    if constexpr (Codes::kGrouped) {
      const int column = min(block * Codes::kColumns + c * Codes::kLaneColumns, static_cast<int>(w.weight.cols) - 1);
      each_output([&](int t, int h) { readers[t][h].Load(w.weight, column, w.pair_shift, w.group_shift); });
    }
  };
  if constexpr (Codes::kGrouped) {
    each_output([&](int t, int h) {
      const int64_t output = int64_t{blockIdx.y} * Shape::kOutputs + in_block + 64 * t + g + 8 * h;
      readers[t][h].Start(w.weight, output < w.weight.rows ? output : w.weight.rows - 1);
    });
  }
  load_groups(begin);
  Ring<Shape::kStages> ring;
  // Two sets of decoded codes: while the products of one are under way, the other is made. `before`: the barriers of
  // the last stages that products read.
  uint32_t pairs[2][kTiles][4][4];
  uint32_t before[Shape::kAtOnce] = {};
  uint4 codes[Shape::kAtOnce][kTiles][2];
  Group groups[Shape::kAtOnce][kTiles][2];
  auto pin_sums = [&] {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int p = 0; p < Sums::kParts; ++p) Pin(sums.c[t][p]);
    }
  };
  // Decodes 64 columns and begins their products.
  auto multiply = [&](uint32_t(&set)[kTiles][4][4], int i, uint32_t x_at, int sub, int add) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int step = 0; step < 4; ++step) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          Codes::Pairs(codes[i][t][h], 4 * sub + step, groups[i][t][h], set[t][step][h], set[t][step][2 + h]);
        }
        Pin(set[t][step]);
      }
    }
    const uint64_t x = Operand(x_at + sub * (kN * 128), 1024, 16);
    WgmmaFence();
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int step = 0; step < 4; ++step) {
#pragma unroll
        for (int p = 0; p < Sums::kParts; ++p) {
          WgmmaRegisters<Half16::kBF16, RowsAlong::kK>(
              sums.c[t][p], set[t][step], Ahead(x, p * (Sums::kWide * 128) + step * 32), step > 0 ? 1 : add);
        }
      }
    }
    WgmmaCommit();
  };
  // Takes a stage's codes to registers; returns where its x lies.
  auto take = [&](int block, int i) {
    BarrierWait(full + 8 * ring.stage, ring.phase);
    const uint32_t x_at = shared + ring.stage * Shape::kStageBytes;
    each_output([&](int t, int h) {
      codes[i][t][h] = LoadShared16(x_at + Shape::kXBytes + (in_block + 64 * t + g + 8 * h) * 64 + c * 16);
      if constexpr (Codes::kGrouped) groups[i][t][h] = readers[t][h].template Value<Group>();
    });
    if (block + 1 < end) load_groups(block + 1);
    return x_at;
  };
  auto release = [&](uint32_t barrier) {
    if (lane == 0) BarrierArrive(barrier);
  };
#pragma unroll 1
  for (int block = begin; block < end; block += Shape::kAtOnce) {
    uint32_t x_at[Shape::kAtOnce], barriers[Shape::kAtOnce];
#pragma unroll
    for (int i = 0; i < Shape::kAtOnce; ++i) {
      x_at[i] = take(block + i, i);
      barriers[i] = empty + 8 * ring.stage;
      ring.Next();
    }
    const int add = block > begin ? 1 : 0;
#pragma unroll
    for (int set = 0; set < 2; ++set) {
      // The products but the last 64 columns' are done: this set may be written, and what those read be filled again.
      WgmmaWait<1>();
      if (add != 0 && set >= Codes::kSubs - 1) release(before[set % Shape::kAtOnce]);
      multiply(pairs[set], set / Codes::kSubs, x_at[set / Codes::kSubs], set % Codes::kSubs, set > 0 ? 1 : add);
    }
#pragma unroll
    for (int i = 0; i < Shape::kAtOnce; ++i) before[i] = barriers[i];
  }
  WgmmaWait<0>();
  pin_sums();
}

// The sums -> shared memory, [row][output] with Shape::kSumStride.
template <typename Shape, int kTiles, int kN>
__device__ __forceinline__ void LeaveSums(float* shared, const TileSums<kTiles, kN>& sums) {
  using Sums = TileSums<kTiles, kN>;
  const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4, warp = threadIdx.x / 32;
  const int in_block = warp / 4 * (64 * kTiles) + warp % 4 * 16 + g;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int p = 0; p < Sums::kParts; ++p) {
#pragma unroll
      for (int i = 0; i < Sums::kWide / 2; ++i) {
        const int row = p * Sums::kWide + i / 4 * 8 + 2 * c + i % 2, output = in_block + 64 * t + i / 2 % 2 * 8;
        shared[row * Shape::kSumStride + output] = sums.c[t][p][i];
      }
    }
  }
}

// By 256 threads: adds up the parts' sums of this block's share of the rows, scales them, and stores them.
template <typename Codes, typename Shape>
__device__ __forceinline__ void StoreRows(const TilesWork& w, uint32_t shared) {
  const int parts = gridDim.x, part = parts == 1 ? 0 : ClusterRank();
  const int begin = w.rows * part / parts, end = w.rows * (part + 1) / parts;
  constexpr int kFours = Shape::kOutputs / 4;
  for (int i = threadIdx.x; i < (end - begin) * kFours; i += 256) {
    const int row = begin + i / kFours, in_block = i % kFours * 4;
    const int64_t output = int64_t{blockIdx.y} * Shape::kOutputs + in_block;
    if (output >= w.weight.rows) continue;
    const uint32_t at = shared + (row * Shape::kSumStride + in_block) * 4;
    float v[4] = {};
    for (int p = 0; p < parts; ++p) {
      const float4 of = LoadOfBlock(at, p);
      v[0] += of.x, v[1] += of.y, v[2] += of.z, v[3] += of.w;
    }
    const int count = static_cast<int>(min(int64_t{4}, w.weight.rows - output));
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j >= count) break;
      if constexpr (!Codes::kGrouped) v[j] *= w.weight.scales[output + j] * Codes::kOutFactor;
      if (w.weight.bias != nullptr) v[j] += w.weight.bias[output + j];
    }
    const int64_t to = row * w.out_stride + output;
    if (w.out_float) {
      float* out = static_cast<float*>(w.out) + to;
      if (w.by_fours) {
        *reinterpret_cast<float4*>(out) = {v[0], v[1], v[2], v[3]};
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (j < count) out[j] = v[j];
        }
      }
    } else {
      bf16* out = static_cast<bf16*>(w.out) + to;
      if (w.by_fours) {
        *reinterpret_cast<uint2*>(out) = {PackBf16(v[0], v[1]), PackBf16(v[2], v[3])};
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (j < count) out[j] = ToBf16(v[j]);
        }
      }
    }
  }
}

template <typename Codes, int kTiles, int kN>
__global__ void __launch_bounds__(384, 1) LinearTiles(const __grid_constant__ TilesWork w) {
  using Shape = TilesShape<Codes, kTiles, kN>;
  extern __shared__ uint8_t raw_shared[];
  const uint32_t shared = (SharedAddress(raw_shared) + 1023) & ~1023u;
  const uint32_t full = shared + Shape::kBufferBytes, empty = full + 8 * Shape::kStages;
  const int parts = gridDim.x, part = parts == 1 ? 0 : ClusterRank();
  const int begin = Shape::Begin(w, part, parts), end = Shape::Begin(w, part + 1, parts);
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shape::kStages; ++i) {
      BarrierInit(full + 8 * i, 1);
      BarrierInit(empty + 8 * i, 8);
    }
    BarrierInitFence();
  }
  __syncthreads();
  LetDependentsStart();
  if (threadIdx.x >= 256) {
    ShrinkRegisters<24>();
    if (threadIdx.x == 256) FetchStages<Shape>(w, shared, full, empty, begin, end);
    ClusterSync();
    ClusterSync();
  } else {
    GrowRegisters<240>();
    TileSums<kTiles, kN> sums;
    MultiplyStages<Codes, kTiles, kN>(w, shared, full, empty, begin, end, sums);
    NamedSync(1, 256);  // both warp groups are done with x
    LeaveSums<Shape>(reinterpret_cast<float*>(raw_shared + (shared - SharedAddress(raw_shared))), sums);
    ClusterSync();
    StoreRows<Codes, Shape>(w, shared);
    ClusterSync();  // others have read this block's sums
  }
}
#else
template <typename Codes, int kTiles, int kN>
__global__ void LinearTiles(const __grid_constant__ TilesWork) {}
#endif

}  // namespace duo::cuda
