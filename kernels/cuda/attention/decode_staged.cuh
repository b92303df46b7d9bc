// Codes of pages on their way to decode attention of few columns, on Hopper: each warp has stages of its own in shared
// memory, which the copy engine fills with whole units of keys and values several units ahead. Loads to registers, as
// decode_segment.cuh has them, are one unit ahead at most, and a warp waited most of its time for them.
//
// Which warp attends to which unit, and in which order it adds up, is as there, and so are the results' bits, but for
// int4 codes of 128 channels: 8 warps and units of 64 tokens, as check_groups.cuh has them.
#pragma once

#include "kernels/cuda/attention/decode_segment.cuh"
#include "kernels/cuda/hopper/hopper_ptx.cuh"

namespace duo::cuda {

// As DecodeConfig, of the form whose codes pass through shared memory. int4 codes of 128 channels take eight warps, as
// many as check_groups.cuh holds the outputs of, and a unit of two steps: what a unit takes besides its products is
// dear where it is small.
template <KvFormat kFormat, int kHeadDim>
struct StagedConfig : DecodeConfig<kFormat, kHeadDim, 1> {
  using Registers = DecodeConfig<kFormat, kHeadDim, 1>;
  static constexpr bool kGroups = kFormat == KvFormat::kInt4 && kHeadDim == 128;
  static constexpr int kTiles = Registers::kTiles, kSteps = kGroups ? 2 : 1;
  static constexpr int kWarps = kGroups ? 8 : Registers::kWarps, kThreads = 32 * kWarps;
  static constexpr int kStep = 16 * kTiles, kUnit = kSteps * kStep;  // tokens
};

// Do its blocks attend to streaming heads, too? Not beside bf16 pages with heads of 128: they are faster with a launch
// of their own.
template <KvFormat kFormat, int kHeadDim>
constexpr bool kStreamsBeside = kFormat != KvFormat::kBF16 || kHeadDim != 128;

// Memory: the stages of each warp, what the warps' merge needs, a barrier for each stage. A stage has the unit's
// [K codes][V codes][K parameters][V parameters].
template <KvFormat kFormat, int kHeadDim>
struct StageShape {
  using Config = StagedConfig<kFormat, kHeadDim>;
  using Tile = TileShape<kFormat, kHeadDim>;
  static constexpr int kUnit = Config::kUnit, kSteps = Config::kSteps, kWarps = Config::kWarps;
  static constexpr int kCodes = kUnit * Tile::kCodeBytes, kParams = kUnit * Tile::kParamBytes;
  static constexpr int kBytes = 2 * (kCodes + kParams);
  static_assert(kCodes % 16 == 0 && kParams % 16 == 0);
  static constexpr int kMergeBytes = static_cast<int>(MergeSharedBytes<kWarps, kHeadDim, 1>());
  static constexpr int kRoom = (227 * 1024 - kMergeBytes) / (kWarps * (kBytes + 8));
  static constexpr int kStages = kRoom < 4 ? kRoom : 4;
  static_assert(kStages >= 2);
  static constexpr int kMergeAt = kWarps * kStages * kBytes, kBarriersAt = kMergeAt + kMergeBytes;
  static_assert(kBarriersAt % 8 == 0);
  static constexpr int kSharedBytes = kBarriersAt + kWarps * kStages * 8;
};

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

// True in one lane of a warp whose lanes all call it. The compiler knows that one lane alone goes on, and sends the
// copy engine's orders without asking each lane for its own.
__device__ __forceinline__ bool Elected() {
  uint32_t elected;
  asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p; }" : "=r"(elected));
  return elected != 0;
}

template <int kBytes>
__device__ __forceinline__ void LoadSharedWords(uint32_t* r, uint32_t at) {
  if constexpr (kBytes == 16) {
    const uint4 x = LoadShared16(at);
    r[0] = x.x, r[1] = x.y, r[2] = x.z, r[3] = x.w;
  } else if constexpr (kBytes == 8) {
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(r[0]), "=r"(r[1]) : "r"(at) : "memory");
  } else {
    r[0] = LoadShared<kBytes>(at);
  }
}

// A warp's stages. They are filled and attended in turn, over all segments of its block.
template <KvFormat kFormat, int kHeadDim, bool kListed>
struct WarpStages {
  using Shape = StageShape<kFormat, kHeadDim>;
  using Tile = typename Shape::Tile;
  using Raw = RawTile<kFormat, kHeadDim, Shape::Config::kTiles>;
  static constexpr int kUnit = Shape::kUnit, kWarps = Shape::kWarps, kStages = Shape::kStages;

  uint32_t memory, barriers;  // of the warp
  int stage = 0;              // the next to be attended to
  uint32_t parity = 0;

  __device__ __forceinline__ WarpStages(const uint8_t* shared) {
    const int w = threadIdx.x / 32;
    memory = SharedAddress(shared) + w * kStages * Shape::kBytes;
    barriers = SharedAddress(shared) + Shape::kBarriersAt + w * kStages * 8;
    if (threadIdx.x % 32 == 0) {
      for (int s = 0; s < kStages; ++s) BarrierInit(barriers + 8 * s, 1);
      BarrierInitFence();
    }
    __syncwarp();
  }
  __device__ __forceinline__ uint32_t At() const { return memory + stage * Shape::kBytes; }
  __device__ __forceinline__ void Next() {
    if (++stage == kStages) stage = 0, parity ^= 1;
  }

  // Tokens from `token` of a page -> stage s, which nobody reads any more. For one lane.
  __device__ __forceinline__ void Fetch(int s, const uint8_t* page, int token) const {
    constexpr int kPage = kPageTokens;
    const uint32_t to = memory + s * Shape::kBytes, full = barriers + 8 * s;
    BarrierArriveExpect(full, Shape::kBytes);
    CopyBytes(to, page + token * Tile::kCodeBytes, Shape::kCodes, full);
    CopyBytes(to + Shape::kCodes, page + (kPage + token) * Tile::kCodeBytes, Shape::kCodes, full);
    if constexpr (Shape::kParams > 0) {
      const uint8_t* params = page + 2 * kPage * Tile::kCodeBytes;
      CopyBytes(to + 2 * Shape::kCodes, params + token * Tile::kParamBytes, Shape::kParams, full);
      CopyBytes(to + 2 * Shape::kCodes + Shape::kParams, params + (kPage + token) * Tile::kParamBytes, Shape::kParams,
                full);
    }
  }

  // Fills stages, all of which are free, with the warp's first units of a segment. waits: nothing has waited yet for
  // the kernels before this one, which the step's own keys are written by.
  __device__ __forceinline__ void Begin(const PagedKv& kv, const Segment<kListed>& at, bool& waits) const {
    UnitWalk<kUnit, kListed> walk(kv, at);
    const uint32_t first = at.first + threadIdx.x / 32;
    const int old = at.span.history - kUnit;  // a unit that starts here or before is all of earlier steps
    const uint8_t* pages[kStages];
#pragma unroll
    for (int i = 0; i < kStages; ++i) {
      const uint32_t unit = first + i * kWarps;
      pages[i] = unit < at.end ? walk.PageOf(unit + at.skipped) : nullptr;
    }
#pragma unroll
    for (int i = 0; i < kStages; ++i) {
      const uint32_t unit = first + i * kWarps;
      if (unit >= at.end) break;
      walk.Go(unit + at.skipped);
      if (waits && walk.page_start + walk.token > old) {
        WaitForDependency();
        waits = false;
      }
      const int s = stage + i;
      if (Elected()) Fetch(s < kStages ? s : s - kStages, pages[i], walk.token);
    }
    __syncwarp();
  }

  // Zeros for what lies past the first `valid` tokens of the stage: 0 * NaN is not 0.
  __device__ __forceinline__ void ClearPast(int valid) const {
    auto clear = [&](int at, int bytes, int each) {
      for (int i = valid * each / 2 + threadIdx.x % 32; i < bytes / 2; i += 32) {
        asm volatile("st.shared.u16 [%0], %1;" ::"r"(At() + at + 2 * i), "h"(uint16_t{0}) : "memory");
      }
    };
    clear(0, Shape::kCodes, Tile::kCodeBytes);
    clear(Shape::kCodes, Shape::kCodes, Tile::kCodeBytes);
    clear(2 * Shape::kCodes, Shape::kParams, Tile::kParamBytes);
    clear(2 * Shape::kCodes + Shape::kParams, Shape::kParams, Tile::kParamBytes);
    SharedStoresFence();  // the copy engine will write there again
    __syncwarp();
  }

  // The lane's keys, or values, as RawTile::LoadK and LoadV have them.
  __device__ __forceinline__ void TakeK(Raw& raw, int first) const {
    const int lane = threadIdx.x % 32, row = first + TokenOfRow(lane / 4);
    const uint32_t codes = At() + row * Tile::kCodeBytes + lane % 4 * Tile::kKVector;
    const uint32_t params = At() + 2 * Shape::kCodes + row * Tile::kParamBytes;
    constexpr int kWords = Tile::kKVector / 4;
#pragma unroll
    for (int t = 0; t < Shape::Config::kTiles; ++t) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int further = 16 * t + 8 * h;
#pragma unroll
        for (int i = 0; i < Tile::kKWords / kWords; ++i) {
          LoadSharedWords<Tile::kKVector>(&raw.k[t][h][i * kWords],
                                          codes + further * Tile::kCodeBytes + i * 4 * Tile::kKVector);
        }
        if constexpr (Tile::kParamBytes > 0) {
          raw.k_params[t][h] = LoadShared<Tile::kParamBytes>(params + further * Tile::kParamBytes);
        }
      }
    }
  }
  __device__ __forceinline__ void TakeV(Raw& raw, int first) const {
    const int lane = threadIdx.x % 32, row = first + TokenOfRow(lane / 4);
    const uint32_t codes = At() + Shape::kCodes + (first + lane % 4) * Tile::kCodeBytes + lane / 4 * Tile::kVVector;
    const uint32_t params = At() + 2 * Shape::kCodes + Shape::kParams + row * Tile::kParamBytes;
    constexpr int kWords = Tile::kVVector / 4;
#pragma unroll
    for (int t = 0; t < Shape::Config::kTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < Tile::kVWords / kWords; ++j) {
          LoadSharedWords<Tile::kVVector>(&raw.v[t][i][j * kWords],
                                          codes + (16 * t + 4 * i) * Tile::kCodeBytes + j * 8 * Tile::kVVector);
        }
      }
      if constexpr (Tile::kParamBytes > 0) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          raw.v_params[t][h] = LoadShared<Tile::kParamBytes>(params + (16 * t + 8 * h) * Tile::kParamBytes);
        }
      }
    }
  }

  // The fragments of a segment's kN x 8 columns, to keep(n, step, fragment), and the warp's start.
  template <int kN, typename Keep>
  __device__ __forceinline__ void Queries(const DecodeArgs& args, const Segment<kListed>& at,
                                          WarpAttention<kFormat, kHeadDim, kN>& warp, Keep&& keep) const {
    warp.Reset();
    auto q_at = [&](int col) -> const bf16* {
      if (col >= at.columns) return nullptr;
      const int k = at.first_column + col;
      return args.q + (at.span.first_row + k / args.group) * args.q_stride +
             (int64_t{at.head} * args.group + k % args.group) * kHeadDim;
    };
    LoadQ<kFormat, kHeadDim, kN>(q_at, keep, warp.q_sum, args.scale, threadIdx.x % 32);
  }

  // The warp's attention to its units of a segment whose first ones are on their way. q(n, step): of Queries.
  template <bool kMass, int kN, typename QFragment>
  __device__ __forceinline__ void Attend(const DecodeArgs& args, const Segment<kListed>& at,
                                         WarpAttention<kFormat, kHeadDim, kN>& warp, QFragment&& q) {
    constexpr int kTiles = Shape::Config::kTiles, kAhead = kStages * kWarps;
    UnitWalk<kUnit, kListed> walk(args.kv, at);
    uint32_t unit = at.first + threadIdx.x / 32;
    const uint8_t* page = unit + kAhead < at.end ? walk.PageOf(unit + at.skipped + kAhead) : nullptr;
    for (; unit < at.end; unit += kWarps) {
      walk.Go(unit + at.skipped);
      BarrierWait(barriers + 8 * stage, parity);
      const int valid = walk.limit - walk.token + 1;
      if (valid < kUnit) ClearPast(valid);
      const auto refill = [&] {
        // The stage's codes are in registers for certain only once a fence has waited for them: the copy engine was
        // seen to overwrite values that lanes had asked for and not got, where the next codes came from the L2.
        SharedStoresFence();
        __syncwarp();
        const uint32_t further = unit + kAhead;
        if (further < at.end) {
          if (Elected()) Fetch(stage, page, (further + at.skipped) % (kPageTokens / kUnit) * kUnit);
          if (further + kWarps < at.end) page = walk.PageOf(further + kWarps + at.skipped);
          __syncwarp();
        }
        Next();
      };
      // Behind the products, where registers hold the codes until then, nobody waits for the fence.
      constexpr bool kLate = kN * kTiles <= 2;
      // Steps past the last token see nothing, and leave all as it is.
      constexpr int kTogether = kN == 1 ? Shape::kSteps : 1;
#pragma unroll
      for (int base = 0; base < Shape::kSteps; base += kTogether) {
        Raw raw[kTogether];
        float s[kTogether][kTiles][kN][4];
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
          TakeK(raw[i], (base + i) * 16 * kTiles);
#pragma unroll
          for (int t = 0; t < kTiles; ++t) warp.Scores(s[i][t], raw[i].k[t], q);
        }
#pragma unroll
        for (int i = 0; i < kTogether; ++i) TakeV(raw[i], (base + i) * 16 * kTiles);
        const bool last = base + kTogether == Shape::kSteps;
        if (!kLate && last) refill();
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
          AttendScored<kMass, false>(warp, s[i], raw[i].k_params, raw[i], args, at,
                                     walk.page_start + walk.token + (base + i) * 16 * kTiles, walk.tokens);
        }
        if (kLate && last) refill();
      }
    }
  }
};

#endif

}  // namespace duo::cuda
