// Page lists on Hopper: pooled keys, and the choice of each block's pages in one kernel. The attending is
// hopper/prefill_hopper.h's.
#include <algorithm>
#include <vector>

#include "kernels/backend.h"
#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/cuda/hopper/hopper.h"
#include "kernels/cuda/hopper/prefill_hopper.h"
#include "kernels/cuda/kv/kv_formats.cuh"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/state.h"
#include "kernels/page_lists.h"

namespace duo::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;
constexpr int kTilePages = 64;          // pages whose means are in shared memory at once
constexpr int kTileRows = 16 * kWarps;  // query rows at once
constexpr int64_t kMostPages = 32768;   // before a block: its scores lie in shared memory

int64_t PagesOf(int64_t max_tokens) { return CeilDiv(max_tokens, int64_t{kPageTokens}); }
int64_t Stride(int64_t pages) { return RoundUp(pages, int64_t{kTilePages}); }

// The mean of a page's keys: a block of head_dim threads, one a channel.
template <KvFormat kFormat>
__global__ void PoolKernel(bf16* means, int64_t stride, PagedKv kv, int table, int pages) {
  const int page = blockIdx.x, head = blockIdx.y, channel = threadIdx.x, d = kv.page.head_dim;
  bf16* out = means + (head * stride + page) * d + channel;
  if (page >= pages) {
    *out = ToBf16(0.0f);
    return;
  }
  const uint8_t* at = kv.page_at(head, table, page);
  float sum = 0;
#pragma unroll 8
  for (int t = 0; t < kPageTokens; ++t) {
    const uint8_t* codes = at + kv.page.k_codes(t);
    if constexpr (kFormat == KvFormat::kBF16) {
      sum += ToFloat(reinterpret_cast<const bf16*>(codes)[channel]);
    } else {
      const uint16_t* p = reinterpret_cast<const uint16_t*>(at + kv.page.k_params(t));
      KvParams params = {f16{p[0]}, f16{0}};
      if constexpr (kFormat != KvFormat::kFp8) params.min = f16{p[1]};
      const uint8_t code =
          kFormat == KvFormat::kInt4 ? (codes[channel / 2] >> (4 * (channel % 2))) & 15 : codes[channel];
      sum += KvDecode(kFormat, code, params);
    }
  }
  *out = ToBf16(sum * (1.0f / kPageTokens));
}

struct ChooseWork {
  const bf16* q;  // of the step's first row and the heads' first query head
  int64_t q_stride;
  const bf16* means;  // [heads][stride][head_dim]
  int64_t means_stride;
  int heads, group, blocks, first_block;
  float scale;  // 1 / sqrt(head_dim) * log2 e
  ListRule rule;
  const int32_t* densities;  // [heads]
  int32_t *lengths, *pages;  // PageLists
  int64_t list_stride;
};

// The products of 16 rows of a warp with a tile of pages: s[i] are columns 8 i + 2 c and the next of rows g and g + 8.
template <int kHeadDim>
__device__ __forceinline__ void Scores(float (&s)[kTilePages / 8][4], const uint32_t (&q)[kHeadDim / 16][4],
                                       uint32_t tile, int lane) {
#pragma unroll
  for (int i = 0; i < kTilePages / 8; ++i) s[i][0] = s[i][1] = s[i][2] = s[i][3] = 0;
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
#pragma unroll
    for (int i = 0; i < kTilePages / 16; ++i) {
      // Four 8 x 8 matrices: pages 16 i .. + 7 and + 8 .. + 15, each the two halves of the step's 16 channels.
      uint32_t k[4];
      const int row = 16 * i + lane % 8 + lane / 16 * 8, piece = 2 * step + lane / 8 % 2;
      LoadMatrix4(k, Swizzled<kHeadDim>(tile, row, piece));
      Mma(s[2 * i], q[step][0], q[step][1], q[step][2], q[step][3], k[0], k[1]);
      Mma(s[2 * i + 1], q[step][0], q[step][1], q[step][2], q[step][3], k[2], k[3]);
    }
  }
}

// The largest `wanted` of scores [before] besides those that are on every list, then all in ascending order; among
// equals the later page. Scores are not negative, so their bits are in their order. The whole block.
__device__ void WriteList(float* scores, int before, int length, const ListRule& rule, int32_t* list) {
  __shared__ int histogram[256];
  __shared__ int shared_digit, shared_left, warp_counts[kWarps][2];
  const int thread = threadIdx.x;
  const int wanted = length - rule.sink_pages - rule.local_pages;  // there are more pages than these
  uint32_t threshold = 0, mask = 0;
  int left = wanted;  // of those that begin with the threshold's digits so far
  for (int shift = 24; shift >= 0 && wanted > 0; shift -= 8) {
    histogram[thread] = 0;
    __syncthreads();
    for (int j = thread; j < before; j += kThreads) {
      const uint32_t bits = __float_as_uint(scores[j]);
      if (!rule.Always(j, before) && (bits & mask) == threshold) atomicAdd(&histogram[bits >> shift & 255], 1);
    }
    __syncthreads();
    if (thread == 0) {
      int digit = 255, more = 0;
      while (digit > 0 && more + histogram[digit] < left) more += histogram[digit--];
      shared_digit = digit;
      shared_left = left - more;
    }
    __syncthreads();
    threshold |= static_cast<uint32_t>(shared_digit) << shift;
    mask |= 255u << shift;
    left = shared_left;
  }
  // Of those that equal the threshold the last `left` are taken: count them all first.
  int equal = 0;
  for (int j = thread; j < before; j += kThreads) {
    equal += wanted > 0 && !rule.Always(j, before) && __float_as_uint(scores[j]) == threshold;
  }
  __syncthreads();
  if (thread == 0) shared_left = 0;
  __syncthreads();
  atomicAdd(&shared_left, equal);
  __syncthreads();
  const int skipped = shared_left - left;  // equals that are left out
  int written = 0, equals = 0;
  for (int base = 0; base < before; base += kThreads) {
    const int j = base + thread, lane = thread % 32, warp = thread / 32;
    const bool there = j < before, forced = there && rule.Always(j, before);
    const uint32_t bits = there ? __float_as_uint(scores[j]) : 0;
    const bool same = there && !forced && wanted > 0 && bits == threshold;
    const uint32_t same_lanes = __ballot_sync(0xffffffffu, same);
    if (lane == 0) warp_counts[warp][0] = __popc(same_lanes);
    __syncthreads();
    int same_before = equals + __popc(same_lanes & ((1u << lane) - 1));
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) same_before += warp_counts[w][0];
      equals += warp_counts[w][0];
    }
    const bool taken = forced || (there && wanted > 0 && !same && bits > threshold) || (same && same_before >= skipped);
    const uint32_t taken_lanes = __ballot_sync(0xffffffffu, taken);
    if (lane == 0) warp_counts[warp][1] = __popc(taken_lanes);
    __syncthreads();
    int place = written + __popc(taken_lanes & ((1u << lane) - 1));
    for (int w = 0; w < kWarps; ++w) {
      if (w < warp) place += warp_counts[w][1];
      written += warp_counts[w][1];
    }
    if (taken) list[place] = j;
    __syncthreads();
  }
}

// One list: twice over the pages, for each row's sum and then for each page's shares.
template <int kHeadDim>
__global__ void __launch_bounds__(kThreads) ChooseKernel(const __grid_constant__ ChooseWork w) {
  extern __shared__ __align__(128) uint8_t shared[];
  const uint32_t tiles = (SharedAddress(shared) + 127) / 128 * 128;
  constexpr uint32_t kTileBytes = kTilePages * kHeadDim * 2;
  float* scores = reinterpret_cast<float*>(shared + (tiles - SharedAddress(shared)) + 2 * kTileBytes);
  const int head = blockIdx.x % w.heads, block = w.blocks - 1 - blockIdx.x / w.heads;
  const int before = w.first_block + block, thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
  const int length = w.rule.Length(w.densities[head], before);
  const int64_t at = int64_t{head} * w.blocks + block;
  int32_t* list = w.pages + at * w.list_stride;
  if (thread == 0) w.lengths[at] = length;
  if (length == before) {
    for (int j = thread; j < before; j += kThreads) list[j] = j;
    return;
  }
  for (int j = thread; j < before; j += kThreads) scores[j] = 0;
  __shared__ float tile_shares[kWarps][kTilePages];
  const int count = (before + kTilePages - 1) / kTilePages, stride = w.rule.row_stride,
            query_rows = kPageTokens / stride * w.group;
  const bf16* means = w.means + head * w.means_stride * kHeadDim;
  auto fetch = [&](int tile) {
    const uint32_t to = tiles + tile % 2 * kTileBytes;
    for (int i = thread; i < kTilePages * kHeadDim / 8; i += kThreads) {
      const int row = i / (kHeadDim / 8), piece = i % (kHeadDim / 8);
      CopyAsync16(Swizzled<kHeadDim>(to, row, piece), means + (int64_t{tile} * kTilePages + row) * kHeadDim + piece * 8,
                  true);
    }
    CopyAsyncCommit();
  };
  for (int first = 0; first < query_rows; first += kTileRows) {
    uint32_t q[kHeadDim / 16][4];
    const int g = lane / 4, c = lane % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = min(first + warp * 16 + g + 8 * half, query_rows - 1);
      const int64_t token = int64_t{block} * kPageTokens + row / w.group * stride + stride - 1;
      const bf16* from = w.q + token * w.q_stride + (head * w.group + row % w.group) * kHeadDim;
#pragma unroll
      for (int step = 0; step < kHeadDim / 16; ++step) {
        q[step][half] = *reinterpret_cast<const uint32_t*>(from + 16 * step + 2 * c);
        q[step][2 + half] = *reinterpret_cast<const uint32_t*>(from + 16 * step + 8 + 2 * c);
      }
    }
    const bool valid[2] = {first + warp * 16 + g < query_rows, first + warp * 16 + g + 8 < query_rows};
    float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
    for (int pass = 0; pass < 2; ++pass) {
      fetch(0);
      for (int tile = 0; tile < count; ++tile) {
        if (tile + 1 < count) {
          fetch(tile + 1);
          CopyAsyncWait<1>();
        } else {
          CopyAsyncWait<0>();
        }
        __syncthreads();
        float s[kTilePages / 8][4];
        Scores<kHeadDim>(s, q, tiles + tile % 2 * kTileBytes, lane);
        const int left = before - tile * kTilePages;  // columns of the tile that are pages
        if (pass == 0) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float now = top[half];
#pragma unroll
            for (int i = 0; i < kTilePages / 8; ++i) {
#pragma unroll
              for (int e = 0; e < 2; ++e) {
                float& x = s[i][2 * half + e];
                x = 8 * i + 2 * c + e < left ? x * w.scale : -INFINITY;
                now = fmaxf(now, x);
              }
            }
            now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 1));
            now = fmaxf(now, __shfl_xor_sync(0xffffffffu, now, 2));
            float add = 0;
#pragma unroll
            for (int i = 0; i < kTilePages / 8; ++i) add += Exp2(s[i][2 * half] - now) + Exp2(s[i][2 * half + 1] - now);
            sum[half] = sum[half] * Exp2(top[half] - now) + add;
            top[half] = now;
          }
        } else {
#pragma unroll
          for (int i = 0; i < kTilePages / 8; ++i) {
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              float share = Exp2(s[i][e] * w.scale - top[0]) + Exp2(s[i][2 + e] * w.scale - top[1]);
              share += __shfl_xor_sync(0xffffffffu, share, 4);
              share += __shfl_xor_sync(0xffffffffu, share, 8);
              share += __shfl_xor_sync(0xffffffffu, share, 16);
              if (g == 0) tile_shares[warp][8 * i + 2 * c + e] = share;
            }
          }
          __syncthreads();
          if (thread < min(left, kTilePages)) {  // in order, so that the sums have the same bits always
            float& score = scores[tile * kTilePages + thread];
            for (int other = 0; other < kWarps; ++other) score += tile_shares[other][thread];
          }
        }
        __syncthreads();
      }
      if (pass == 1) continue;
        // From here on top is the row's log2 of its sum.
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
        sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
        top[half] = valid[half] ? top[half] + log2f(sum[half]) : INFINITY;  // no share of those that are none
      }
    }
  }
  __syncthreads();
  WriteList(scores, before, length, w.rule, list);
}

template <int kHeadDim>
void Choose(Device& device, const ChooseWork& w) {
  const int most = w.first_block + w.blocks - 1;
  const size_t bytes = 128 + 2 * kTilePages * kHeadDim * 2 + sizeof(float) * std::max(most, 1);
  const auto kernel = ChooseKernel<kHeadDim>;
  DUO_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)));
  kernel<<<w.heads * w.blocks, kThreads, bytes, Stream(device)>>>(w);
  DUO_CUDA_CHECK(cudaGetLastError());
}

}  // namespace

absl::Status CheckPageLists(const Device& device, int head_dim, int group, KvFormat format) {
  const PageLayout page = {format, head_dim};
  if (HopperPrefillUsable(device, page) && group <= kPageTokens) return absl::OkStatus();
  return absl::UnimplementedError(
      "sparse prefill (--prefill-sparsity) on a GPU needs a Hopper one, a build for it (sm_90a) and a head size of 64 "
      "or 128; use --device cpu or --prefill-sparsity off");
}

size_t PooledKeysBytes(const Device&, const PagedKv& kv, int64_t max_tokens) {
  return Arena::Rounded(sizeof(bf16) * kv.num_heads * kv.page.head_dim * Stride(PagesOf(max_tokens)));
}

void PoolKeys(Device& device, PooledKeys* to, const StepRows& rows, const PagedKv& kv, Arena& arena) {
  const SeqSpan& span = rows.batch.host_spans[0];
  const int d = kv.page.head_dim;
  to->pages = (span.history + span.num_rows) / kPageTokens;
  to->stride = Stride(to->pages);
  bf16* means = static_cast<bf16*>(arena.Take(sizeof(bf16) * kv.num_heads * d * to->stride));
  to->means = means;
  const dim3 grid(static_cast<uint32_t>(to->stride), kv.num_heads);
  VisitFormat(kv.page.format, [&](auto format) {
    PoolKernel<format()><<<grid, d, 0, Stream(device)>>>(means, to->stride, kv, span.table, to->pages);
  });
  DUO_CUDA_CHECK(cudaGetLastError());
}

size_t SelectPagesBytes(const Device&, int rows, int, const PagedKv& kv, int64_t max_tokens) {
  const int64_t lists = int64_t{kv.num_heads} * (rows / kBlockTokens);
  return Arena::Rounded(sizeof(int32_t) * lists) + Arena::Rounded(sizeof(int32_t) * lists * PagesOf(max_tokens)) +
         Arena::Rounded(sizeof(int32_t) * kv.num_heads);
}

void SelectPages(Device& device, PageLists* to, const StepRows& rows, const PagedKv& kv, const PooledKeys& pooled,
                 const ListRule& rule, const int32_t* densities, Arena& arena) {
  const int d = kv.page.head_dim;
  TakeLists(to, rows, kv, rule, densities, arena);
  DUO_CHECK_LE(int64_t{to->first_block} + to->blocks, kMostPages);
  const size_t mark = arena.used();
  auto* device_densities = static_cast<int32_t*>(arena.Take(sizeof(int32_t) * kv.num_heads));
  device.Upload(device_densities, densities, sizeof(int32_t) * kv.num_heads);
  ChooseWork w;
  w.q = rows.qkv.as<bf16>() + int64_t{kv.first_head} * rows.shape.group * d;
  w.q_stride = rows.qkv.stride;
  w.means = static_cast<const bf16*>(pooled.means);
  w.means_stride = pooled.stride;
  w.heads = kv.num_heads;
  w.group = rows.shape.group;
  w.blocks = to->blocks;
  w.first_block = to->first_block;
  w.scale = kLog2e / sqrtf(static_cast<float>(d));
  w.rule = rule;
  w.densities = device_densities;
  w.lengths = to->lengths;
  w.pages = to->pages;
  w.list_stride = to->stride;
  if (d == 64) {
    Choose<64>(device, w);
  } else {
    Choose<128>(device, w);
  }
  arena.Rewind(mark);
}

size_t AttendPageListsScratchBytes(const Device& device, int rows, int group, const PagedKv& kv, int64_t max_tokens) {
  return HopperPrefillScratchBytes(device, rows, group, kv, max_tokens);
}

void AttendPageLists(Device& device, const Partial& to, const StepRows& rows, const PagedKv& kv, const PageLists& lists,
                     Arena& scratch) {
  HopperListedPrefill(device, to.out, to.lse, rows, kv, lists, scratch);
}

}  // namespace duo::cuda
