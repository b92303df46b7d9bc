// The graph is attention written out, as cuDNN's runtime-fusion engine recognises it: scores = Q K^T, scale, masks,
// softmax as max, subtract, exp, sum, divide, and the product with V; lse = max + log sum.
#include "kernels/cuda/attn_cudnn.h"

#include "kernels/base/cuda_check.h"
#include "kernels/cuda/state.h"

#ifdef DUO_HAVE_CUDNN

#include <cudnn.h>
#include <dlfcn.h>

#include <cmath>
#include <map>
#include <memory>
#include <utility>
#include <vector>

namespace duo::cuda {

namespace {

using Descriptor = cudnnBackendDescriptor_t;

struct Api {
  decltype(&cudnnGetVersion) version;
  decltype(&cudnnCreate) create;
  decltype(&cudnnDestroy) destroy;
  decltype(&cudnnSetStream) set_stream;
  decltype(&cudnnBackendCreateDescriptor) create_descriptor;
  decltype(&cudnnBackendDestroyDescriptor) destroy_descriptor;
  decltype(&cudnnBackendSetAttribute) set;
  decltype(&cudnnBackendGetAttribute) get;
  decltype(&cudnnBackendFinalize) finalize;
  decltype(&cudnnBackendExecute) execute;
};

template <typename F>
bool Find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}
bool Load(Api& api) {
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

enum Uid : int64_t { kQ = 1, kK, kV, kO, kLse, kScale, kMinusInfinity, kRowCount, kKeyCount, kFirstVirtual };

using Dims = std::vector<int64_t>;

// Builds one graph. Every call notes failure instead of stopping; ok() tells at the end.
class GraphBuilder {
 public:
  explicit GraphBuilder(const Api& api) : api_(api) {}
  ~GraphBuilder() {
    if (plan_ != nullptr) api_.destroy_descriptor(plan_);
    for (auto at = descriptors_.rbegin(); at != descriptors_.rend(); ++at) api_.destroy_descriptor(*at);
  }
  bool ok() const { return ok_; }

  Descriptor New(cudnnBackendDescriptorType_t type) {
    Descriptor d = nullptr;
    Check(api_.create_descriptor(type, &d));
    if (d != nullptr) descriptors_.push_back(d);
    return d;
  }
  void Set(Descriptor d, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t count,
           const void* value) {
    if (ok_) Check(api_.set(d, name, type, count, value));
  }
  void SetDescriptor(Descriptor d, cudnnBackendAttributeName_t name, Descriptor value) {
    Set(d, name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &value);
  }
  void Finalize(Descriptor d) {
    if (ok_) Check(api_.finalize(d));
  }

  // A tensor in memory (uid), a scalar given with the call (by_value), or an intermediate (uid 0).
  Descriptor Tensor(int64_t uid, cudnnDataType_t type, const Dims& dims, const Dims& strides, bool by_value = false) {
    Descriptor t = New(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
    const bool is_virtual = uid == 0;
    const int64_t id = is_virtual ? next_virtual_++ : uid, alignment = by_value ? 4 : 16;
    Set(t, CUDNN_ATTR_TENSOR_UNIQUE_ID, CUDNN_TYPE_INT64, 1, &id);
    Set(t, CUDNN_ATTR_TENSOR_DATA_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &type);
    Set(t, CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, CUDNN_TYPE_INT64, 1, &alignment);
    Set(t, CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, dims.size(), dims.data());
    Set(t, CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, strides.size(), strides.data());
    Set(t, CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, 1, &is_virtual);
    Set(t, CUDNN_ATTR_TENSOR_IS_BY_VALUE, CUDNN_TYPE_BOOLEAN, 1, &by_value);
    Finalize(t);
    return t;
  }
  Descriptor Virtual(const Dims& d, cudnnDataType_t type = CUDNN_DATA_FLOAT) {
    return Tensor(0, type, d, {d[1] * d[2] * d[3], d[2] * d[3], d[3], 1});
  }

  // y = mode(x, b, t); b and t may be null.
  Descriptor Pointwise(cudnnPointwiseMode_t mode, Descriptor x, Descriptor b, Descriptor y, Descriptor t = nullptr,
                       int64_t axis = -1) {
    Descriptor how = New(CUDNN_BACKEND_POINTWISE_DESCRIPTOR), op = New(CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
    const cudnnDataType_t precision = CUDNN_DATA_FLOAT;
    Set(how, CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
    Set(how, CUDNN_ATTR_POINTWISE_MATH_PREC, CUDNN_TYPE_DATA_TYPE, 1, &precision);
    if (axis >= 0) Set(how, CUDNN_ATTR_POINTWISE_AXIS, CUDNN_TYPE_INT64, 1, &axis);
    Finalize(how);
    SetDescriptor(op, CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, how);
    SetDescriptor(op, CUDNN_ATTR_OPERATION_POINTWISE_XDESC, x);
    if (b != nullptr) SetDescriptor(op, CUDNN_ATTR_OPERATION_POINTWISE_BDESC, b);
    if (t != nullptr) SetDescriptor(op, CUDNN_ATTR_OPERATION_POINTWISE_TDESC, t);
    SetDescriptor(op, CUDNN_ATTR_OPERATION_POINTWISE_YDESC, y);
    Finalize(op);
    operations_.push_back(op);
    return y;
  }
  // Product of a and b; the device-side sizes m, n, k may be null.
  void Matmul(Descriptor a, Descriptor b, Descriptor c, Descriptor m, Descriptor n, Descriptor k) {
    Descriptor how = New(CUDNN_BACKEND_MATMUL_DESCRIPTOR), op = New(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR);
    const cudnnDataType_t precision = CUDNN_DATA_FLOAT;
    const double padding = 0.0;
    Set(how, CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &precision);
    if (m != nullptr) Set(how, CUDNN_ATTR_MATMUL_PADDING_VALUE, CUDNN_TYPE_DOUBLE, 1, &padding);
    Finalize(how);
    SetDescriptor(op, CUDNN_ATTR_OPERATION_MATMUL_DESC, how);
    SetDescriptor(op, CUDNN_ATTR_OPERATION_MATMUL_ADESC, a);
    SetDescriptor(op, CUDNN_ATTR_OPERATION_MATMUL_BDESC, b);
    SetDescriptor(op, CUDNN_ATTR_OPERATION_MATMUL_CDESC, c);
    if (m != nullptr) SetDescriptor(op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_M_OVERRIDE_DESC, m);
    if (n != nullptr) SetDescriptor(op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_N_OVERRIDE_DESC, n);
    if (k != nullptr) SetDescriptor(op, CUDNN_ATTR_OPERATION_MATMUL_GEMM_K_OVERRIDE_DESC, k);
    Finalize(op);
    operations_.push_back(op);
  }
  Descriptor Reduce(cudnnReduceTensorOp_t operation, Descriptor x, Descriptor y) {
    Descriptor how = New(CUDNN_BACKEND_REDUCTION_DESCRIPTOR), op = New(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR);
    const cudnnDataType_t precision = CUDNN_DATA_FLOAT;
    Set(how, CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &operation);
    Set(how, CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_TYPE_DATA_TYPE, 1, &precision);
    Finalize(how);
    SetDescriptor(op, CUDNN_ATTR_OPERATION_REDUCTION_DESC, how);
    SetDescriptor(op, CUDNN_ATTR_OPERATION_REDUCTION_XDESC, x);
    SetDescriptor(op, CUDNN_ATTR_OPERATION_REDUCTION_YDESC, y);
    Finalize(op);
    operations_.push_back(op);
    return y;
  }

  // Makes the plan that the heuristic likes best and the device accepts; plan() stays null when there is none.
  void Plan(cudnnHandle_t handle) {
    Descriptor graph = New(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
    Set(graph, CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR, operations_.size(), operations_.data());
    Set(graph, CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    Finalize(graph);
    Descriptor heuristic = New(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
    const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
    SetDescriptor(heuristic, CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
    Set(heuristic, CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
    Finalize(heuristic);
    constexpr int kMost = 8;
    std::vector<Descriptor> configs;
    for (int i = 0; ok_ && i < kMost; ++i) configs.push_back(New(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR));
    int64_t count = 0;
    if (!ok_) return;
    Check(api_.get(heuristic, CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, kMost, &count,
                   configs.data()));
    for (int64_t i = 0; ok_ && i < count && i < kMost; ++i) {
      Descriptor plan = nullptr;
      if (api_.create_descriptor(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR, &plan) != CUDNN_STATUS_SUCCESS) continue;
      int64_t got = 0, workspace = 0;
      if (api_.set(plan, CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle) == CUDNN_STATUS_SUCCESS &&
          api_.set(plan, CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &configs[i]) ==
              CUDNN_STATUS_SUCCESS &&
          api_.finalize(plan) == CUDNN_STATUS_SUCCESS &&
          api_.get(plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &got, &workspace) ==
              CUDNN_STATUS_SUCCESS &&
          workspace <= static_cast<int64_t>(Device::CudaState::kWorkspaceBytes)) {
        plan_ = plan;
        return;
      }
      api_.destroy_descriptor(plan);
    }
  }
  Descriptor plan() const { return plan_; }

 private:
  void Check(cudnnStatus_t status) { ok_ = ok_ && status == CUDNN_STATUS_SUCCESS; }

  const Api& api_;
  bool ok_ = true;
  int64_t next_virtual_ = kFirstVirtual;
  std::vector<Descriptor> descriptors_, operations_;
  Descriptor plan_ = nullptr;
};

// The builder keeps what it made: a plan refers to its graph.
std::unique_ptr<GraphBuilder> BuildPlan(const Api& api, cudnnHandle_t handle, const CudnnShape& s) {
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
  b.Plan(handle);
  return builder;
}

}  // namespace

struct CudnnAttention {
  Api api = {};
  cudnnHandle_t handle = nullptr;
  int32_t* lengths = nullptr;  // device [2]: rows, keys
  std::map<CudnnShape, std::unique_ptr<GraphBuilder>> plans;
};

void DestroyCudnnAttention(CudnnAttention* a) {
  a->plans.clear();
  a->api.destroy(a->handle);
  cudaFree(a->lengths);
  delete a;
}

bool CudnnUsable(Device& device) {
  Device::CudaState& state = State(device);
  if (!state.cudnn_tried) {
    state.cudnn_tried = true;
    auto* a = new CudnnAttention();
    if (Load(a->api) && VersionIsGood(a->api.version()) && a->api.create(&a->handle) == CUDNN_STATUS_SUCCESS &&
        a->api.set_stream(a->handle, Stream(device)) == CUDNN_STATUS_SUCCESS) {
      DUO_CUDA_CHECK(cudaMalloc(&a->lengths, 2 * 16));
      state.cudnn = a;
    } else {
      if (a->handle != nullptr) a->api.destroy(a->handle);
      delete a;
    }
  }
  return state.cudnn != nullptr;
}

bool CudnnAttend(Device& device, const CudnnShape& shape, const DenseAttention& args) {
  if (!CudnnUsable(device)) return false;
  Device::CudaState& state = State(device);
  CudnnAttention& a = *state.cudnn;
  auto found = a.plans.find(shape);
  if (found == a.plans.end()) {
    found = a.plans.emplace(shape, BuildPlan(a.api, a.handle, shape)).first;
  }
  const Descriptor plan = found->second->plan();
  if (plan == nullptr) return false;
  int32_t* key_count = a.lengths + 4;  // 16 bytes apart, as aligned as the plan was told
  if (!shape.whole) {
    const int32_t rows = args.rows, keys = static_cast<int32_t>(args.keys);
    device.Upload(a.lengths, &rows, sizeof(rows));
    device.Upload(key_count, &keys, sizeof(keys));
  }
  float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim)), minus_infinity = -INFINITY;
  std::vector<int64_t> ids = {kQ, kK, kV, kO, kLse, kScale};
  std::vector<void*> pointers = {
      const_cast<bf16*>(args.q), const_cast<bf16*>(args.k), const_cast<bf16*>(args.v), args.out, args.lse, &scale};
  if (!shape.whole || shape.causal) ids.push_back(kMinusInfinity), pointers.push_back(&minus_infinity);
  if (!shape.whole) {
    ids.insert(ids.end(), {kRowCount, kKeyCount});
    pointers.insert(pointers.end(), {a.lengths, key_count});
  }
  Descriptor pack = nullptr;
  auto check = [](cudnnStatus_t status) { DUO_CHECK_EQ(status, CUDNN_STATUS_SUCCESS); };
  check(a.api.create_descriptor(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR, &pack));
  check(a.api.set(pack, CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, ids.size(), ids.data()));
  check(a.api.set(pack, CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, pointers.size(), pointers.data()));
  check(a.api.set(pack, CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &state.workspace));
  check(a.api.finalize(pack));
  check(a.api.execute(a.handle, plan, pack));
  a.api.destroy_descriptor(pack);
  return true;
}

}  // namespace duo::cuda

#else  // built without cuDNN's headers

namespace duo::cuda {

void DestroyCudnnAttention(CudnnAttention*) {}
bool CudnnUsable(Device&) { return false; }
bool CudnnAttend(Device&, const CudnnShape&, const DenseAttention&) { return false; }

}  // namespace duo::cuda

#endif
