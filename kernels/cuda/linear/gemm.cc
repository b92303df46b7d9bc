#include "kernels/cuda/linear/gemm.h"

#include "kernels/cuda/blas_check.h"
#include "kernels/cuda/state.h"

namespace duo::cuda {

// Column-major for cuBLASLt: out^T [outputs x rows] = op(w)^T [outputs x inputs] * x^T [inputs x rows].
void Gemm(Device& device, View out, View x, const bf16* weight, WeightIs form) {
  Device::CudaState& state = State(device);
  const bool wide = out.dtype == DType::kF32;
  cublasLtMatmulDesc_t product;
  cublasLtMatrixLayout_t a, b, d;
  const bool transposed = form == WeightIs::kTransposed;
  const int64_t outputs = out.cols, weight_cols = transposed ? x.cols : outputs;
  const cublasOperation_t operation = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  DUO_BLAS_CHECK(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  DUO_BLAS_CHECK(cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &operation, sizeof(operation)));
  DUO_BLAS_CHECK(cublasLtMatrixLayoutCreate(&a, CUDA_R_16BF, weight_cols, transposed ? outputs : x.cols, weight_cols));
  DUO_BLAS_CHECK(cublasLtMatrixLayoutCreate(&b, CUDA_R_16BF, x.cols, x.rows, x.stride));
  DUO_BLAS_CHECK(cublasLtMatrixLayoutCreate(&d, wide ? CUDA_R_32F : CUDA_R_16BF, outputs, x.rows, out.stride));

  // Views of columns, odd sizes and arena pieces: 16 bytes where the layout gives them, one element otherwise.
  auto alignment = [](const void* p, int64_t stride_bytes, uint32_t element) -> uint32_t {
    return reinterpret_cast<uintptr_t>(p) % 16 == 0 && stride_bytes % 16 == 0 ? 16 : element;
  };
  const uint32_t align_a = alignment(weight, weight_cols * 2, 2), align_b = alignment(x.data, x.stride * 2, 2);
  const uint32_t align_d = alignment(out.data, out.stride * (wide ? 4 : 2), wide ? 4 : 2);
  const GemmKey key = {x.rows,     outputs, x.cols,     x.stride,
                       out.stride, wide,    transposed, (align_a << 16) + (align_b << 8) + align_d};
  auto found = state.algorithms.find(key);
  if (found == state.algorithms.end()) {
    cublasLtMatmulPreference_t preference;
    DUO_BLAS_CHECK(cublasLtMatmulPreferenceCreate(&preference));
    const size_t workspace = Device::CudaState::kWorkspaceBytes;
    DUO_BLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                        &workspace, sizeof(workspace)));
    DUO_BLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                                                        &align_a, sizeof(align_a)));
    DUO_BLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                                                        &align_b, sizeof(align_b)));
    DUO_BLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                                                        &align_d, sizeof(align_d)));
    DUO_BLAS_CHECK(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
                                                        &align_d, sizeof(align_d)));
    cublasLtMatmulHeuristicResult_t result = {};
    int count = 0;
    DUO_BLAS_CHECK(cublasLtMatmulAlgoGetHeuristic(state.blas, product, a, b, d, d, preference, 1, &result, &count));
    DUO_CHECK_EQ(count, 1);
    DUO_BLAS_CHECK(cublasLtMatmulPreferenceDestroy(preference));
    found = state.algorithms.emplace(key, result.algo).first;
  }
  const float one = 1, zero = 0;
  DUO_BLAS_CHECK(cublasLtMatmul(state.blas, product, &one, weight, a, x.data, b, &zero, out.data, d, out.data, d,
                                &found->second, state.workspace, Device::CudaState::kWorkspaceBytes, Stream(device)));
  DUO_BLAS_CHECK(cublasLtMatrixLayoutDestroy(a));
  DUO_BLAS_CHECK(cublasLtMatrixLayoutDestroy(b));
  DUO_BLAS_CHECK(cublasLtMatrixLayoutDestroy(d));
  DUO_BLAS_CHECK(cublasLtMatmulDescDestroy(product));
}

}  // namespace duo::cuda
