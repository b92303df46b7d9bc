// Codes of K and V in registers: which lane of a warp reads which bytes of a 16-token tile, and how a word of codes of
// any format becomes the bf16 pairs of tensor-core fragments. decode_tile.cuh tells what the fragments are for.
//
// Lane l is (g, c) = (l / 4, l % 4). For K it holds the tokens of fragment rows g and g + 8 and a quarter of their
// channels; for V four tokens and an eighth of the channels. Which channel sits in which fragment slot is free as long
// as Q and O agree (ChannelOfK, ChannelOfV), so each lane reads whole 16-byte pieces; which token sits in which
// fragment row is free too (TokenOfRow), so that the four lanes of a V read touch neighbouring tokens.
#pragma once

#include "kernels/cuda/primitives.cuh"
#include "kernels/kv_layout.h"

namespace duo::cuda {

// Fragment row r (0-15) holds token TokenOfRow(r) of the tile.
__device__ __forceinline__ constexpr int TokenOfRow(int r) { return (r & 8) + ((r & 1) << 2) + ((r & 7) >> 1); }

template <KvFormat kFormat, int kHeadDim>
struct TileShape {
  static constexpr int kCodeBytes = KvCodeBytes(kFormat, kHeadDim);
  static constexpr int kParamBytes = KvParamBytes(kFormat);
  static constexpr int kKLaneBytes = kCodeBytes / 4;  // of one token, per lane
  static constexpr int kKVector = kKLaneBytes < 16 ? kKLaneBytes : 16;
  static constexpr int kKWords = kKLaneBytes / 4;
  static constexpr int kVLaneBytes = kCodeBytes / 8;
  static constexpr int kVVector = kVLaneBytes < 16 ? kVLaneBytes : 16;
  static constexpr int kVWords = kVLaneBytes / 4;
  static constexpr int kCodesPerByte2 = kFormat == KvFormat::kInt4 ? 4 : kFormat == KvFormat::kBF16 ? 1 : 2;  // x 1/2
  static constexpr int kCodesPerWord = 2 * kCodesPerByte2;
  static constexpr int kPairsPerWord = kCodesPerByte2;
};

// Channels of the pair that lane c's K fragment register r (0 .. d/8 - 1) holds: first of the pair, and the distance to
// the second.
template <KvFormat kFormat, int kHeadDim>
__device__ __forceinline__ int ChannelOfK(int r, int c, int which) {
  using S = TileShape<kFormat, kHeadDim>;
  constexpr int kVectorWords = S::kKVector / 4;
  const int word = r / S::kPairsPerWord, u = r % S::kPairsPerWord;
  const int base = ((word / kVectorWords * 4 + c) * kVectorWords + word % kVectorWords) * S::kCodesPerWord;
  if constexpr (kFormat == KvFormat::kBF16) return base + which;
  return base + u + which * S::kPairsPerWord;  // int4: codes u and u + 4 of a word; bytes: u and u + 2
}

// Channel of entry e (0 .. d/8 - 1) of lane group g's V; fragment m holds entries 2 m (row g) and 2 m + 1 (row g + 8).
template <KvFormat kFormat, int kHeadDim>
__device__ __forceinline__ int ChannelOfV(int e, int g) {
  using S = TileShape<kFormat, kHeadDim>;
  constexpr int kVectorCodes = S::kVVector / 4 * S::kCodesPerWord;
  return (e / kVectorCodes * 8 + g) * kVectorCodes + e % kVectorCodes;
}

// Word of codes of one token -> its bf16 pairs, in the order of ChannelOfK.
template <KvFormat kFormat>
__device__ __forceinline__ uint32_t KPair(uint32_t word, int u) {
  if constexpr (kFormat == KvFormat::kBF16) return word;
  if constexpr (kFormat == KvFormat::kInt4) return NibblesPlus128(word >> (4 * u));
  if constexpr (kFormat == KvFormat::kInt8) return BytesMinus128(word >> (8 * u));
  if constexpr (kFormat == KvFormat::kFp8) return F8HighBytes(u == 0 ? word << 8 : word);
  return 0;
}
// Code `i` of the same word of two tokens -> a bf16 pair (token a low, token b high).
template <KvFormat kFormat>
__device__ __forceinline__ uint32_t VPair(uint32_t a, uint32_t b, int i) {
  if constexpr (kFormat == KvFormat::kBF16) return __byte_perm(a, b, i == 0 ? 0x5410 : 0x7632);
  if constexpr (kFormat == KvFormat::kInt4) {
    return Minus136(NibblesPlus128(__byte_perm(a, b, i < 4 ? 0x5410 : 0x7632) >> (4 * (i % 4))));
  }
  if constexpr (kFormat == KvFormat::kInt8) return BytesMinus128(__byte_perm(a, b, 0x0400 + i * 0x0101));
  if constexpr (kFormat == KvFormat::kFp8) return F8HighBytes(__byte_perm(a, b, 0x4000 + i * 0x1010));
  return 0;
}

// What codes stand for inside the products.
template <KvFormat kFormat>
struct CodeForm {
  static constexpr float kZero = kFormat == KvFormat::kInt4 ? 128.0f : kFormat == KvFormat::kInt8 ? -128.0f : 0.0f;
  // The code that stands for V's 0.
  static constexpr float kMiddle = kFormat == KvFormat::kInt4 ? 8.0f : kFormat == KvFormat::kInt8 ? 128.0f : 0.0f;
  static constexpr float kQFactor =
      kFormat == KvFormat::kFp8 ? 0x1p64f : 1.0f;  // keeps tiny codes out of f32's subnormals
  static constexpr float kUndo = kFormat == KvFormat::kFp8 ? 0x1p56f : 1.0f;
};

// One lane's part of kTiles x 16 tokens.
template <KvFormat kFormat, int kHeadDim, int kTiles>
struct RawTile {
  using S = TileShape<kFormat, kHeadDim>;
  uint32_t k[kTiles][2][S::kKWords];
  uint32_t v[kTiles][4][S::kVWords];
  uint32_t k_params[kTiles][2];
  uint32_t v_params[kTiles][2];

  // `page` is a page's first byte, `token` the tile's first in it; tokens past `last` are read as `last`. A tile within
  // `last` needs one address: the tokens of a lane lie at constant distances.
  __device__ __forceinline__ void LoadK(const uint8_t* page, int token, int last, int lane) {
    const int g = lane / 4, c = lane % 4, first = token + TokenOfRow(g);
    const uint8_t* params = page + 2 * kPageTokens * S::kCodeBytes;
    if (token + 16 * kTiles - 1 <= last) {
      const uint8_t* at = page + first * S::kCodeBytes + c * S::kKVector;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          LoadOneK(at + (16 * t + 8 * h) * S::kCodeBytes, t, h, 0);
          if constexpr (S::kParamBytes > 0) {
            k_params[t][h] = LoadParams(params + first * S::kParamBytes + (16 * t + 8 * h) * S::kParamBytes);
          }
        }
      }
      return;
    }
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int at = min(first + 16 * t + 8 * h, last);
        LoadOneK(page + at * S::kCodeBytes, t, h, c);
        if constexpr (S::kParamBytes > 0) k_params[t][h] = LoadParams(params + at * S::kParamBytes);
      }
    }
  }
  __device__ __forceinline__ void LoadV(const uint8_t* page, int token, int last, int lane) {
    const int g = lane / 4, c = lane % 4, first = token + c, first_row = token + TokenOfRow(g);
    const uint8_t* codes = page + kPageTokens * S::kCodeBytes;
    const uint8_t* params = page + 2 * kPageTokens * S::kCodeBytes + kPageTokens * S::kParamBytes;
    // Fragment columns 2 c, 2 c + 1, 2 c + 8, 2 c + 9 hold tokens c, c + 4, c + 8, c + 12 (TokenOfRow).
    if (token + 16 * kTiles - 1 <= last) {
      const uint8_t* at = codes + first * S::kCodeBytes + g * S::kVVector;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) LoadOneV(at + (16 * t + 4 * i) * S::kCodeBytes, t, i, 0);
        if constexpr (S::kParamBytes > 0) {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            v_params[t][h] = LoadParams(params + first_row * S::kParamBytes + (16 * t + 8 * h) * S::kParamBytes);
          }
        }
      }
      return;
    }
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        LoadOneV(codes + min(first + 16 * t + 4 * i, last) * S::kCodeBytes, t, i, g);
      }
      if constexpr (S::kParamBytes > 0) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          v_params[t][h] = LoadParams(params + min(first_row + 16 * t + 8 * h, last) * S::kParamBytes);
        }
      }
    }
  }
  __device__ __forceinline__ void LoadOneK(const uint8_t* codes, int t, int h, int c) {
    constexpr int kWords = S::kKVector / 4;
#pragma unroll
    for (int i = 0; i < S::kKWords / kWords; ++i) {
      LoadStreaming<S::kKVector>(&k[t][h][i * kWords], codes + (i * 4 + c) * S::kKVector);
    }
  }
  __device__ __forceinline__ void LoadOneV(const uint8_t* codes, int t, int i, int g) {
    constexpr int kWords = S::kVVector / 4;
#pragma unroll
    for (int j = 0; j < S::kVWords / kWords; ++j) {
      LoadStreaming<S::kVVector>(&v[t][i][j * kWords], codes + (j * 8 + g) * S::kVVector);
    }
  }
  static __device__ __forceinline__ uint32_t LoadParams(const uint8_t* p) {
    if constexpr (S::kParamBytes == 4) return __ldg(reinterpret_cast<const uint32_t*>(p));
    return __ldg(reinterpret_cast<const uint16_t*>(p));
  }
};

}  // namespace duo::cuda
