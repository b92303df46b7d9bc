// The graph is attention written out, as cuDNN's runtime-fusion engine recognises it: scores = Q K^T, scale, masks,
// softmax as max, subtract, exp, sum, divide, and the product with V; lse = max + log sum.
#ifdef DUO_HAVE_CUDNN

#include "kernels/cuda/attention/cudnn_graph.h"

#include <dlfcn.h>

namespace duo::cuda {
namespace {

template <typename F>
bool Find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}
bool LoadAll(CudnnApi& api) {
  void* library = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_LOCAL);
  return library != nullptr && Find(library, "cudnnGetVersion", api.version) &&
         Find(library, "cudnnCreate", api.create) && Find(library, "cudnnDestroy", api.destroy) &&
         Find(library, "cudnnSetStream", api.set_stream) &&
         Find(library, "cudnnBackendCreateDescriptor", api.create_descriptor) &&
         Find(library, "cudnnBackendDestroyDescriptor", api.destroy_descriptor) &&
         Find(library, "cudnnBackendSetAttribute", api.set) && Find(library, "cudnnBackendGetAttribute", api.get) &&
         Find(library, "cudnnBackendFinalize", api.finalize) && Find(library, "cudnnBackendExecute", api.execute);
}

// 9.10.0 and 9.10.1 give wrong 16-bit attention forward; before 9.6 bottom-right masks of odd lengths are refused.
bool VersionIsGood(size_t version) { return version >= 90600 && version != 91000 && version != 91001; }

}  // namespace

bool LoadCudnn(CudnnApi& api) { return LoadAll(api) && VersionIsGood(api.version()); }

std::unique_ptr<GraphBuilder> BuildAttention(const CudnnApi& api, cudnnHandle_t handle, const CudnnShape& s,
                                             int64_t most_workspace) {
  auto builder = std::make_unique<GraphBuilder>(api);
  GraphBuilder& b = *builder;
  const int64_t q_heads = int64_t{s.heads} * s.group, d = s.head_dim, m = s.row_capacity, n = s.key_capacity;
  const Dims scores = {1, q_heads, m, n}, rows = {1, q_heads, m, 1}, one = {1, 1, 1, 1};
  const int64_t key_head = (s.heads == 1 ? n : s.key_head_stride) * d;
  const Dims q_strides = {q_heads * m * d, m * d, d, 1};
  Descriptor q = b.Tensor(kQ, CUDNN_DATA_BFLOAT16, {1, q_heads, m, d}, q_strides);
  Descriptor k = b.Tensor(kK, CUDNN_DATA_BFLOAT16, {1, s.heads, d, n}, {s.heads * key_head, key_head, 1, d});
  Descriptor v = b.Tensor(kV, CUDNN_DATA_BFLOAT16, {1, s.heads, n, d}, {s.heads * key_head, key_head, d, 1});
  Descriptor o = b.Tensor(kO, CUDNN_DATA_BFLOAT16, {1, q_heads, m, d}, q_strides);
  Descriptor lse = b.Tensor(kLse, CUDNN_DATA_FLOAT, rows, {q_heads * m, m, 1, 1});
  Descriptor scale = b.Tensor(kScale, CUDNN_DATA_FLOAT, one, one, true);
  Descriptor row_count = nullptr, key_count = nullptr, minus_infinity = nullptr;
  if (!s.whole) {
    row_count = b.Tensor(kRowCount, CUDNN_DATA_INT32, one, one);
    key_count = b.Tensor(kKeyCount, CUDNN_DATA_INT32, one, one);
  }
  if (!s.whole || s.causal) minus_infinity = b.Tensor(kMinusInfinity, CUDNN_DATA_FLOAT, one, one, true);

  Descriptor x = b.Virtual(scores);
  b.Matmul(q, k, x, row_count, key_count, nullptr);
  x = b.Pointwise(CUDNN_POINTWISE_MUL, x, scale, b.Virtual(scores));
  auto index = [&](int64_t axis) {
    return b.Pointwise(CUDNN_POINTWISE_GEN_INDEX, x, nullptr, b.Virtual(scores, CUDNN_DATA_INT32), nullptr, axis);
  };
  auto keep = [&](Descriptor mask) {
    x = b.Pointwise(CUDNN_POINTWISE_BINARY_SELECT, x, minus_infinity, b.Virtual(scores), mask);
  };
  if (!s.whole) {
    Descriptor row = index(2), key = index(3);
    Descriptor row_in = b.Pointwise(CUDNN_POINTWISE_CMP_LT, row, row_count, b.Virtual(scores, CUDNN_DATA_BOOLEAN));
    Descriptor key_in = b.Pointwise(CUDNN_POINTWISE_CMP_LT, key, key_count, b.Virtual(scores, CUDNN_DATA_BOOLEAN));
    keep(b.Pointwise(CUDNN_POINTWISE_LOGICAL_AND, row_in, key_in, b.Virtual(scores, CUDNN_DATA_BOOLEAN)));
  }
  if (s.causal) {
    Descriptor row = index(2), key = index(3);
    keep(b.Pointwise(CUDNN_POINTWISE_CMP_GE, row, key, b.Virtual(scores, CUDNN_DATA_BOOLEAN)));
  }
  Descriptor top = b.Reduce(CUDNN_REDUCE_TENSOR_MAX, x, b.Virtual(rows));
  Descriptor p = b.Pointwise(CUDNN_POINTWISE_SUB, x, top, b.Virtual(scores));
  p = b.Pointwise(CUDNN_POINTWISE_EXP, p, nullptr, b.Virtual(scores));
  Descriptor sum = b.Reduce(CUDNN_REDUCE_TENSOR_ADD, p, b.Virtual(rows));
  Descriptor log_sum = b.Pointwise(CUDNN_POINTWISE_LOG, sum, nullptr, b.Virtual(rows));
  b.Pointwise(CUDNN_POINTWISE_ADD, top, log_sum, lse);
  p = b.Pointwise(CUDNN_POINTWISE_DIV, p, sum, b.Virtual(scores, CUDNN_DATA_BFLOAT16));
  b.Matmul(p, v, o, row_count, nullptr, key_count);
  b.Plan(handle, most_workspace);
  return builder;
}

}  // namespace duo::cuda

#endif
