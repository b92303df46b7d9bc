#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/cuda/kv/kv_formats.cuh"
#include "kernels/cuda/kv/kv_gather.h"
#include "kernels/cuda/primitives.cuh"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int kEach = 16;  // channels a thread decodes

__global__ void SplitHeadsKernel(uint4* to, int64_t capacity, const uint4* from, int64_t stride, int64_t rows,
                                 int heads, int per_head) {
  const int64_t item = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int columns = heads * per_head;
  if (item >= rows * columns) return;
  const int64_t row = item / columns;
  const int column = item % columns;
  to[(column / per_head * capacity + row) * per_head + column % per_head] = from[row * stride + column];
}

template <KvFormat kFormat>
__global__ void GatherKernel(bf16* k, bf16* v, GatherLayout to, PagedKv kv, int table, int64_t first, int64_t count) {
  const int head_dim = kv.page.head_dim, per_vector = head_dim / kEach;
  const int64_t item = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (item >= count * per_vector) return;
  const int64_t token = first + item / per_vector;
  const int channel = item % per_vector * kEach, head = blockIdx.y;
  const bool is_v = blockIdx.z;
  const uint8_t* page = kv.page_at(head, table, kv.held(token / kPageTokens));
  const int in_page = token % kPageTokens;
  const uint8_t* codes = page + (is_v ? kv.page.v_codes(in_page) : kv.page.k_codes(in_page));
  const int64_t place = item / per_vector;
  uint4* out = reinterpret_cast<uint4*>((is_v ? v : k) + head * to.head_stride + place / kPageTokens * to.page_stride +
                                        place % kPageTokens * head_dim + channel);
  if constexpr (kFormat == KvFormat::kBF16) {
    const uint4* in = reinterpret_cast<const uint4*>(codes + channel * 2);
    out[0] = in[0];
    out[1] = in[1];
  } else {
    const uint16_t* p =
        reinterpret_cast<const uint16_t*>(page + (is_v ? kv.page.v_params(in_page) : kv.page.k_params(in_page)));
    KvParams params = {f16{p[0]}, f16{0}};
    if constexpr (kFormat != KvFormat::kFp8) params.min = f16{p[1]};
    uint32_t words[4], pairs[8];
    LoadStreaming<kFormat == KvFormat::kInt4 ? 8 : 16>(words, codes + KvCodeBytes(kFormat, channel));
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float x[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int e = 2 * i + j;
        const uint8_t code =
            kFormat == KvFormat::kInt4 ? (words[e / 8] >> (4 * (e % 8))) & 15 : words[e / 4] >> (8 * (e % 4));
        x[j] = KvDecode(kFormat, code, params);
      }
      pairs[i] = PackBf16(x[0], x[1]);
    }
    out[0] = {pairs[0], pairs[1], pairs[2], pairs[3]};
    out[1] = {pairs[4], pairs[5], pairs[6], pairs[7]};
  }
}

}  // namespace

void GatherPages(Device& device, bf16* k, bf16* v, GatherLayout to, const PagedKv& kv, int table, int64_t first,
                 int64_t count) {
  const int64_t items = count * (kv.page.head_dim / kEach);
  const dim3 grid(CeilDiv(items, 256), kv.num_heads, 2);
  const cudaStream_t stream = Stream(device);
  VisitFormat(kv.page.format, [&](auto chosen) {
    GatherKernel<chosen()><<<grid, 256, 0, stream>>>(k, v, to, kv, table, first, count);
  });
  DUO_CUDA_CHECK(cudaGetLastError());
}

void SplitHeads(Device& device, bf16* to, int64_t capacity, View from, int head_dim) {
  DUO_CHECK_EQ(from.stride % 8, 0);
  const int per_head = head_dim / 8;
  const int64_t items = from.rows * from.cols / 8;
  SplitHeadsKernel<<<CeilDiv(items, 256), 256, 0, Stream(device)>>>(reinterpret_cast<uint4*>(to), capacity,
                                                                    from.as<const uint4>(), from.stride / 8, from.rows,
                                                                    static_cast<int>(from.cols / head_dim), per_head);
  DUO_CUDA_CHECK(cudaGetLastError());
}

}  // namespace duo::cuda
