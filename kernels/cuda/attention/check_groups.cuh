// A check's attention over int4 pages to more columns than a warp's registers hold beside their output: warps go four
// together, as one warp group. Each has the units that it has for one row, turns its keys' codes to numbers once for
// all columns, and makes probabilities of their scores; those pass through shared memory, and of the four's values
// every warp takes a quarter of the channels. So each code is turned to a number once, where a warp by itself would
// attend to 16 columns at a time and turn all codes again for the next.
//
//   scores^T [64 tokens x columns] = K [64 x d] * Q^T         16 tokens of each of the four warps' units; Q^T shared
//   O_v^T    [d x columns]        += V_v^T [d x 16] * P_v^T   for each warp v's 16 tokens; 32 channels a warp; P^T
//   shared
//
// The products are those of decode_tile.cuh on a warp group's instructions, which add to the same bits: an output
// depends on its own row and column alone. All else is WarpColumns', warp by warp. So are the results' bits those of
// one row (attn_staged.cu).
#pragma once

#include "kernels/cuda/attention/check_group_parts.cuh"
#include "kernels/cuda/attention/streaming_few.cuh"

namespace duo::cuda {

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

template <KvFormat kFormat, int kHeadDim>
struct WarpGroup {
  using Shape = GroupShape<kFormat, kHeadDim>;
  using Stage = typename Shape::Stage;
  using Tile = typename Stage::Tile;
  static constexpr int kUnit = Stage::kUnit, kWarps = Stage::kWarps, kStages = Shape::kStages;
  static constexpr int kTiles = Stage::Config::kTiles, kSteps = Stage::kSteps, kN = Shape::kN, kCols = Shape::kCols;
  static_assert(kTiles == 2);
  static constexpr int kQBlock = 128 * kCols;  // bytes of 64 channels

  uint8_t* shared;
  uint32_t base;  // its address
  int turn = 0;   // of probabilities' memory
  int stage = 0;
  uint32_t parity = 0;

  WarpColumns<kFormat, kN> columns;  // of the warp's own units
  float o[4][2][kN][4];              // of warp v's units, channels 32 w + 4 g + 2 m + h

  static __device__ __forceinline__ int Warp() { return threadIdx.x / 32; }
  __device__ __forceinline__ uint32_t StageAt(int warp, int s) const {
    return base + (warp * kStages + s) * Stage::kBytes;
  }
  __device__ __forceinline__ uint32_t FullAt(int s) const {
    return base + Shape::kBarriersAt + (Warp() * kStages + s) * 8;
  }

  __device__ __forceinline__ explicit WarpGroup(uint8_t* memory) : shared(memory), base(SharedAddress(memory)) {
    if (threadIdx.x % 32 == 0) {
      for (int s = 0; s < kStages; ++s) BarrierInit(FullAt(s), 1);
      BarrierInitFence();
    }
    __syncwarp();
  }

  // Turns of a segment: all warps take as many, and those without a unit in the last one fetch the last unit there is.
  static __device__ __forceinline__ uint32_t Turns(const Segment<false>& at) {
    return at.end > at.first ? CeilDiv(at.end - at.first, static_cast<uint32_t>(kWarps)) : 0;
  }
  static __device__ __forceinline__ uint32_t UnitOf(const Segment<false>& at, uint32_t i) {
    return min(at.first + Warp() + i * kWarps, at.end - 1);
  }
  __device__ __forceinline__ void Fetch(int s, const uint8_t* page, int token) const {
    constexpr int kPage = kPageTokens;
    const uint32_t to = StageAt(Warp(), s), full = FullAt(s);
    const uint8_t* params = page + 2 * kPage * Tile::kCodeBytes;
    BarrierArriveExpect(full, Stage::kBytes);
    CopyBytes(to, page + token * Tile::kCodeBytes, Stage::kCodes, full);
    CopyBytes(to + Stage::kCodes, page + (kPage + token) * Tile::kCodeBytes, Stage::kCodes, full);
    CopyBytes(to + 2 * Stage::kCodes, params + token * Tile::kParamBytes, Stage::kParams, full);
    CopyBytes(to + 2 * Stage::kCodes + Stage::kParams, params + (kPage + token) * Tile::kParamBytes, Stage::kParams,
              full);
  }

  // Fills the stages, all of which are free, with the warp's first units of a segment; waits as WarpStages::Begin has
  // it.
  __device__ __forceinline__ void Begin(const PagedKv& kv, const Segment<false>& at, bool& waits) const {
    UnitWalk<kUnit, false> walk(kv, at);
    const uint32_t turns = Turns(at);
    const int old = at.span.history - kUnit;
#pragma unroll
    for (int i = 0; i < kStages; ++i) {
      if (static_cast<uint32_t>(i) >= turns) break;
      const uint32_t unit = UnitOf(at, i) + at.skipped;
      walk.Go(unit);
      if (waits && walk.page_start + walk.token > old) {
        WaitForDependency();
        waits = false;
      }
      const uint8_t* page = walk.PageOf(unit);
      if (Elected()) Fetch((stage + i) % kStages, page, walk.token);
    }
    __syncwarp();
  }

  // Zeros for what lies past the first `valid` tokens of the stage, as WarpStages::ClearPast.
  __device__ __forceinline__ void ClearPast(int valid) const {
    const uint32_t to = StageAt(Warp(), stage);
    auto clear = [&](int at, int bytes, int each) {
      for (int i = valid * each / 2 + threadIdx.x % 32; i < bytes / 2; i += 32) {
        asm volatile("st.shared.u16 [%0], %1;" ::"r"(to + at + 2 * i), "h"(uint16_t{0}) : "memory");
      }
    };
    clear(0, Stage::kCodes, Tile::kCodeBytes);
    clear(Stage::kCodes, Stage::kCodes, Tile::kCodeBytes);
    clear(2 * Stage::kCodes, Stage::kParams, Tile::kParamBytes);
    clear(2 * Stage::kCodes + Stage::kParams, Stage::kParams, Tile::kParamBytes);
    SharedStoresFence();
    __syncwarp();
  }

  // Queries of a segment to shared memory, and the warp's start. For all warps, between barriers of the block.
  __device__ __forceinline__ void Queries(const DecodeArgs& args, const Segment<false>& at) {
    columns.Reset();
#pragma unroll
    for (int v = 0; v < 4; ++v) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < kN; ++n) o[v][m][n][0] = o[v][m][n][1] = o[v][m][n][2] = o[v][m][n][3] = 0;
      }
    }
    const int g = threadIdx.x % 32 / 4, c = threadIdx.x % 4;
    auto q_at = [&](int col) -> const bf16* {
      if (col >= at.columns) return nullptr;
      const int k = at.first_column + col;
      return args.q + (at.span.first_row + k / args.group) * args.q_stride +
             (int64_t{at.head} * args.group + k % args.group) * kHeadDim;
    };
    LoadQ<kFormat, kHeadDim, kN>(
        q_at,
        [&](int n, int step, uint2 f) {
          if (Warp() != 0) return;
          uint8_t* row = shared + Shape::kQAt + step / 4 * kQBlock + (8 * n + g) * 128 + 4 * c;
          *reinterpret_cast<uint32_t*>(row + ((2 * (step % 4)) ^ g) * 16) = f.x;
          *reinterpret_cast<uint32_t*>(row + ((2 * (step % 4) + 1) ^ g) * 16) = f.y;
        },
        columns.q_sum, args.scale, threadIdx.x % 32);
    if (Warp() == 0 && g == 0) {
      float* sums = reinterpret_cast<float*>(shared + Shape::kQSumsAt);
#pragma unroll
      for (int n = 0; n < kN; ++n)
        sums[8 * n + 2 * c] = columns.q_sum[n][0], sums[8 * n + 2 * c + 1] = columns.q_sum[n][1];
    }
    SharedStoresFence();
  }

  // s of the warp's tile t of 16 tokens, from token `first` of its stage on. They are there behind WgmmaWait.
  __device__ __forceinline__ void BeginScores(float (&s)[kN][4], int first) {
    const int lane = threadIdx.x % 32, row = first + TokenOfRow(lane / 4);
    const uint32_t codes = StageAt(Warp(), stage) + row * Tile::kCodeBytes + lane % 4 * 16;
    uint32_t k[2][4];
#pragma unroll
    for (int h = 0; h < 2; ++h) LoadSharedWords<16>(k[h], codes + 8 * h * Tile::kCodeBytes);
    const uint64_t q = Operand(base + Shape::kQAt, 1024, 16);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t a[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r0 = 2 * (4 * half + i), r1 = r0 + 1;
        a[i][0] = KPair<kFormat>(k[0][r0 / 4], r0 % 4), a[i][1] = KPair<kFormat>(k[1][r0 / 4], r0 % 4);
        a[i][2] = KPair<kFormat>(k[0][r1 / 4], r1 % 4), a[i][3] = KPair<kFormat>(k[1][r1 / 4], r1 % 4);
      }
      WgmmaFence();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        GroupProduct<RowsAlong::kK>(s, a[i], Ahead(q, half * kQBlock + i * 32), half + i > 0);
      }
      WgmmaCommit();
      WgmmaWait<1>();  // registers of two are there
    }
  }

  // Probabilities of the warp's own tokens to shared memory. position: of the first.
  __device__ __forceinline__ void KeepProbabilities(const DecodeArgs& args, const Segment<false>& at,
                                                    float (&s)[kTiles][kN][4], int first, int position,
                                                    int sees_all_below, bool there) {
    const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4, slot = turn * kWarps + Warp();
    const uint32_t p_row = base + Shape::kPAt + slot * Shape::kPBytes + lane % 8 * 128;
    bool raised = false;
    if (there) {
      const float2* q_sums = reinterpret_cast<const float2*>(shared + Shape::kQSumsAt);
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        const float2 pair = q_sums[4 * n + c];
        columns.q_sum[n][0] = pair.x, columns.q_sum[n][1] = pair.y;
      }
      const uint32_t params = StageAt(Warp(), stage) + 2 * Stage::kCodes + (first + TokenOfRow(g)) * Tile::kParamBytes;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        uint32_t of_keys[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) of_keys[h] = LoadShared<4>(params + (16 * t + 8 * h) * Tile::kParamBytes);
        columns.Scale(s[t], of_keys, args.scale);
      }
      if (position + 16 * kTiles > sees_all_below) HideUnseen<false>(s, args, at, position);
      float* factors = reinterpret_cast<float*>(shared + Shape::kFactorsAt) + slot * kCols;
      raised = columns.Raise(s, [&](int n, int j, float factor) {
        if (g == 0) factors[8 * n + 2 * c + j] = factor;
      });
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        uint32_t of_values[2], p[2][kN];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          of_values[h] = LoadShared<4>(params + Stage::kParams + (16 * t + 8 * h) * Tile::kParamBytes);
        }
        columns.Probabilities(
            s[t], of_values, [](int, float, float) {}, [&](int n, int h, uint32_t pair) { p[h][n] = pair; });
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          StoreMatrices(p_row + h * 1024 + ((4 * t + lane / 8) ^ (lane % 8)) * 16, p[h]);
        }
      }
    } else {
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const uint32_t none[kN] = {};
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          StoreMatrices(p_row + h * 1024 + ((4 * t + lane / 8) ^ (lane % 8)) * 16, none);
        }
      }
    }
    if (lane == 0) reinterpret_cast<uint32_t*>(shared + Shape::kRaisedAt)[slot] = raised;
  }

  // The four warps' values, of the tokens that their probabilities of this turn are of.
  __device__ __forceinline__ void Values(int first) {
    const int lane = threadIdx.x % 32, quarter = Warp() % 4, group = Warp() / 4 * 4, c = lane % 4;
    const uint4 raised =
        *reinterpret_cast<const uint4*>(shared + Shape::kRaisedAt + (turn * kWarps + group) * sizeof(uint32_t));
    if ((raised.x | raised.y | raised.z | raised.w) != 0) {
      const uint32_t of[4] = {raised.x, raised.y, raised.z, raised.w};
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        if (of[v] == 0) continue;
        const float* factors =
            reinterpret_cast<const float*>(shared + Shape::kFactorsAt) + (turn * kWarps + group + v) * kCols;
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const float factor = factors[8 * n + 2 * c + i % 2];
            o[v][0][n][i] *= factor, o[v][1][n][i] *= factor;
          }
        }
      }
    }
    // Matrix i has the tokens of rows 8 i to 8 i + 7.
    const int token = first + lane / 16 * 16 + TokenOfRow(lane % 16);
    const uint32_t codes = StageAt(group, stage) + Stage::kCodes + token * Tile::kCodeBytes + quarter * 16;
    uint32_t next[4];
    LoadTransposed(next, codes);
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      const uint32_t words[4] = {next[0], next[1], next[2], next[3]};
      if (v < 3) LoadTransposed(next, codes + (v + 1) * (kStages * Stage::kBytes));
      const uint64_t p = Operand(base + Shape::kPAt + (turn * kWarps + group + v) * Shape::kPBytes, 1024, 1024);
      uint32_t a[kTiles][2][4];
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            a[t][m][i] = Minus136(NibblesPlus128(words[2 * t] >> (4 * (2 * m + i))));
            a[t][m][2 + i] = Minus136(NibblesPlus128(words[2 * t + 1] >> (4 * (2 * m + i))));
          }
        }
      }
      WgmmaFence();
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int m = 0; m < 2; ++m) GroupProduct<RowsAlong::kN>(o[v][m], a[t][m], Ahead(p, t * 64), 1);
      }
      WgmmaCommit();
      if (v < 3) {
        WgmmaWait<1>();
      } else {
        WgmmaWait<0>();
      }
    }
#pragma unroll
    for (int v = 0; v < 4; ++v) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < kN; ++n) Pin(o[v][m][n]);
      }
    }
  }

  // Of a segment whose first units are on their way.
  __device__ __forceinline__ void Attend(const DecodeArgs& args, const Segment<false>& at) {
    UnitWalk<kUnit, false> walk(args.kv, at);
    const uint32_t turns = Turns(at);
    const uint8_t* page = nullptr;
    // No column of the block masks the keys below.
    const int sees_all_below = at.span.history + at.first_column / args.group + 1;
    for (uint32_t i = 0; i < turns; ++i) {
      const uint32_t unit = UnitOf(at, i);
      const bool mine = at.first + Warp() + i * kWarps < at.end;
      walk.Go(unit + at.skipped);
      BarrierWait(FullAt(stage), parity);
      const int valid = walk.limit - walk.token + 1;
      if (valid < kUnit) ClearPast(valid);
      uint32_t next = 0;
      if (i > 0 && i - 1 + kStages < turns) {
        next = UnitOf(at, i - 1 + kStages) + at.skipped;
        page = walk.PageOf(next);
      }
#pragma unroll 1
      for (int step = 0; step < kSteps; ++step) {
        const int first = step * 16 * kTiles;
        float s[kTiles][kN][4];
#pragma unroll
        for (int t = 0; t < kTiles; ++t) BeginScores(s[t], first + 16 * t);
        WgmmaWait<0>();
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
#pragma unroll
          for (int n = 0; n < kN; ++n) Pin(s[t][n]);
        }
        KeepProbabilities(args, at, s, first, walk.page_start + walk.token + first, sees_all_below,
                          mine && first < valid);
        SharedStoresFence();
        NamedSync(1 + Warp() / 4, 128);
        if (step == 0 && i > 0 && i - 1 + kStages < turns) {  // all are done with the stage of the turn before
          if (Elected()) Fetch((stage + kStages - 1) % kStages, page, next % (kPageTokens / kUnit) * kUnit);
          __syncwarp();
        }
        Values(first);
        turn ^= 1;
      }
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
  }

  // Merges the block's warps as MergeWarps does, in its order. between() is called once all are done with the stages.
  template <typename Between>
  __device__ __forceinline__ void Merge(const Segment<false>& at, float* out, float* lse, Between&& between) {
    const int lane = threadIdx.x % 32, g = lane / 4, c = lane % 4, w = Warp();
    float* tops = reinterpret_cast<float*>(shared + Shape::kSumsAt);  // [warp][column]
    float* sums = tops + kWarps * kCols;
    float* adds = sums + kWarps * kCols;
    float* totals = reinterpret_cast<float*>(shared + Shape::kOutAt);  // [column][channel]
#pragma unroll
    for (int n = 0; n < kN; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float add = columns.Finish(n, j);
        const int slot = w * kCols + 8 * n + 2 * c + j;
        if (g == 0) tops[slot] = columns.top[n][j], sums[slot] = columns.sum[n][j], adds[slot] = add;
      }
    }
    SharedStoresFence();  // the copy engine may fill stages from here on: all loads of theirs come first
    __syncthreads();
    between();
    for (int group = 0; group < Shape::kGroups; ++group) {
      if (w / 4 == group) {
#pragma unroll
        for (int n = 0; n < kN; ++n) {
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const int col = 8 * n + 2 * c + j;
            float top = -1e30f, sum = 0;
#pragma unroll
            for (int i = 0; i < kWarps; ++i) top = fmaxf(top, tops[i * kCols + col]);
#pragma unroll
            for (int i = 0; i < kWarps; ++i) {
              sum = __fmaf_rn(sums[i * kCols + col], Exp2(tops[i * kCols + col] - top), sum);
            }
            const int channel = 32 * (w % 4) + 4 * g;
            float4* total = reinterpret_cast<float4*>(totals + col * kHeadDim + channel);
            float4 of_warps = {0, 0, 0, 0};
            if (group > 0) of_warps = *total;
            float x[4] = {of_warps.x, of_warps.y, of_warps.z, of_warps.w};
#pragma unroll
            for (int v = 0; v < 4; ++v) {
              const int slot = (4 * group + v) * kCols + col;
              const float factor = sum > 0 ? Exp2(tops[slot] - top) / sum : 0.0f, add = adds[slot];
#pragma unroll
              for (int m = 0; m < 2; ++m) {
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                  const float of_warp = __fmaf_rn(o[v][m][n][2 * h + j], CodeForm<kFormat>::kUndo, add);
                  x[2 * m + h] = __fadd_rn(x[2 * m + h], __fmul_rn(of_warp, factor));
                }
              }
            }
            const float4 now = {x[0], x[1], x[2], x[3]};
            if (group < Shape::kGroups - 1) {
              *total = now;
            } else if (col < at.columns) {
              *reinterpret_cast<float4*>(out + (at.first_column + col) * kHeadDim + channel) = now;
            }
            if (w == 0 && g == 0 && col < at.columns) {
              lse[at.first_column + col] = sum > 0 ? (top + log2f(sum)) * kLn2 : -INFINITY;
            }
          }
        }
      }
      __syncthreads();
    }
  }
};

#endif

}  // namespace duo::cuda
