// cuDNN's plain backend API: attention as a graph of operations, and the plan made of it. Part of attn_cudnn.cc, the
// only user; compiled where cuDNN's headers are.
#pragma once

#include <cudnn.h>

#include <memory>
#include <vector>

#include "kernels/cuda/attention/attn_cudnn.h"

namespace duo::cuda {

using Descriptor = cudnnBackendDescriptor_t;

// The entry points of the library, found at run time.
struct CudnnApi {
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
// Loads the library; false where it or one of the entry points is missing, or where the version is known to be wrong.
bool LoadCudnn(CudnnApi& api);

// The tensors that a call gives.
enum CudnnUid : int64_t { kQ = 1, kK, kV, kO, kLse, kScale, kMinusInfinity, kRowCount, kKeyCount, kFirstVirtual };

using Dims = std::vector<int64_t>;

// Builds one graph. Every call notes failure instead of stopping; ok() tells at the end.
class GraphBuilder {
 public:
  explicit GraphBuilder(const CudnnApi& api) : api_(api) {}
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
  void Plan(cudnnHandle_t handle, int64_t most_workspace) {
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
          workspace <= most_workspace) {
        plan_ = plan;
        return;
      }
      api_.destroy_descriptor(plan);
    }
  }
  Descriptor plan() const { return plan_; }

 private:
  void Check(cudnnStatus_t status) { ok_ = ok_ && status == CUDNN_STATUS_SUCCESS; }

  const CudnnApi& api_;
  bool ok_ = true;
  int64_t next_virtual_ = kFirstVirtual;
  std::vector<Descriptor> descriptors_, operations_;
  Descriptor plan_ = nullptr;
};

// The plan of a shape; its plan() is null when cuDNN cannot do it in so many bytes of workspace. The builder keeps what
// it made: a plan refers to its graph.
std::unique_ptr<GraphBuilder> BuildAttention(const CudnnApi& api, cudnnHandle_t handle, const CudnnShape& shape,
                                             int64_t most_workspace);

}  // namespace duo::cuda
