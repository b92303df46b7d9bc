// RotateQk and StoreKv in one launch: in decode either takes less time than its launch. One warp a vector; a K vector
// of pages is rotated into shared memory, where the lanes find the neighbours that share a byte of its codes.
#include <algorithm>

#include "kernels/base/cuda_check.h"
#include "kernels/base/math.h"
#include "kernels/base/overlapped_launch.cuh"
#include "kernels/cuda/dense/rotate_head.cuh"
#include "kernels/cuda/kv/kv_formats.cuh"
#include "kernels/cuda/kv/store_vector.cuh"
#include "kernels/cuda/state.h"
#include "kernels/rotate_store.h"

namespace duo::cuda {
namespace {

// Few blocks: attention over pages, whose blocks want a whole multiprocessor, starts where none of them is.
constexpr int kWarps = 16;

struct RotateStoreArgs {
  bf16* qkv;
  int64_t stride;
  HeadShape shape;
  SeqBatch batch;
  const float* cos_sin;
  int64_t cs_stride;
  QkNorms norms;
  const float* key_shift;
  PagedKv paged[kMostStoredGroups];
  int num_paged;
};

// One warp per (row, head of [q | k | v]).
template <KvFormat kFormat, int kHeadDim>
__global__ void __launch_bounds__(32 * kWarps) RotateStoreKernel(const __grid_constant__ RotateStoreArgs args) {
  __shared__ __align__(16) bf16 rotated[kWarps][kHeadDim];
  const HeadShape& shape = args.shape;
  const int64_t item = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  const int q_heads = shape.kv_heads * shape.group, k_end = q_heads + shape.kv_heads, heads = k_end + shape.kv_heads;
  if (item >= args.batch.num_rows * int64_t{heads}) return;
  LetDependentsStart();
  const int64_t row = item / heads;
  const int head = item % heads;
  const bool is_v = head >= k_end;
  const float* angles = args.cos_sin + row * args.cs_stride;
  StorePlace to;
  PageLayout layout = {};
  if (head >= q_heads) {
    const int kv_head = head - (is_v ? k_end : q_heads);
    for (int i = 0; i < args.num_paged; ++i) {
      const PagedKv& kv = args.paged[i];
      if (kv_head < kv.first_head || kv_head >= kv.first_head + kv.num_heads) continue;
      to = StorePlace(args.batch, kv, row, kv_head - kv.first_head);
      layout = kv.page;
    }
  }
  bf16* x = args.qkv + row * args.stride + int64_t{head} * kHeadDim;
  if (is_v) {
    WaitForDependency();
    if (to.exists) StoreVector<kFormat, kHeadDim>(x, x, to, layout, true);
    return;
  }
  const HeadConstants constants(shape, head, args.norms, args.key_shift);
  WaitForDependency();
  bf16* out = to.exists ? rotated[threadIdx.x / 32] : x;
  RotateHead(x, out, kHeadDim, angles, constants, shape.hadamard(head));
  if (!to.exists) return;
  __syncwarp();
  StoreVector<kFormat, kHeadDim>(out, x, to, layout, false);
}

}  // namespace

void RotateAndStore(Device& device, const StepRows& rows, View cos_sin, const QkNorms& norms, const float* key_shift,
                    const std::vector<PagedKv>& paged) {
  const HeadShape& shape = rows.shape;
  RotateStoreArgs args = {};
  args.qkv = rows.qkv.as<bf16>();
  args.stride = rows.qkv.stride;
  args.shape = shape;
  args.batch = rows.batch;
  args.cos_sin = cos_sin.as<float>();
  args.cs_stride = cos_sin.stride;
  args.norms = norms;
  args.key_shift = key_shift;
  std::copy(paged.begin(), paged.end(), args.paged);
  args.num_paged = static_cast<int>(paged.size());
  const int64_t warps = int64_t{rows.batch.num_rows} * shape.kv_heads * (shape.group + 2);
  VisitFormat(paged[0].page.format, [&](auto chosen) {
    const auto kernel = shape.head_dim == 64 ? RotateStoreKernel<chosen(), 64> : RotateStoreKernel<chosen(), 128>;
    LaunchOverlapped(device, kernel, dim3(static_cast<unsigned>(CeilDiv(warps, int64_t{kWarps}))), dim3(32 * kWarps), 0,
                     args);
  });
}

}  // namespace duo::cuda
