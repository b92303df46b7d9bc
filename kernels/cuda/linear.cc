// Linear: kernels of our own for a few rows (memory-bound), cuBLASLt for many. Weights that are not bf16 are turned to
// bf16 a slice of outputs at a time: activations stay 16-bit, so that prefill and decode round alike, and at a
// thousand rows and more the detour costs a few per cent of the product.
#include <algorithm>

#include "kernels/base/cuda_check.h"
#include "kernels/cuda/blas_check.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/dequantize.h"
#include "kernels/cuda/linear_small.h"
#include "kernels/cuda/state.h"

namespace duo::cuda {
namespace {

constexpr int64_t kSliceBytes = int64_t{64} << 20;
// Codes read three times by the small kernel cost no more than once dequantised (read 1, write 2, read 2 bytes).
constexpr int64_t kCodedRows = 3 * kSmallRows;

bool IsCoded(DType t) { return t == DType::kF8E4M3 || t == DType::kI8 || t == DType::kI4; }

int64_t SliceRows(const Weight& weight) {
  return std::min(weight.rows, std::max<int64_t>(16, kSliceBytes / (2 * weight.cols) / 16 * 16));
}
bool UsesSmall(int64_t rows, const Weight& weight) {
  const int64_t most = weight.dtype == DType::kBF16 ? 0 : IsCoded(weight.dtype) ? kCodedRows : kSmallRows;
  return rows <= most && SmallLinearFits(weight);
}

// Column-major for cuBLASLt: out^T [outputs x rows] = (w^T)^T [outputs x inputs] * x^T [inputs x rows].
void Gemm(Device& device, View out, View x, const bf16* weight, int64_t outputs) {
  Device::CudaState& state = State(device);
  const bool wide = out.dtype == DType::kF32;
  cublasLtMatmulDesc_t product;
  cublasLtMatrixLayout_t a, b, d;
  const cublasOperation_t transposed = CUBLAS_OP_T;
  DUO_BLAS_CHECK(cublasLtMatmulDescCreate(&product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
  DUO_BLAS_CHECK(cublasLtMatmulDescSetAttribute(product, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed)));
  DUO_BLAS_CHECK(cublasLtMatrixLayoutCreate(&a, CUDA_R_16BF, x.cols, outputs, x.cols));
  DUO_BLAS_CHECK(cublasLtMatrixLayoutCreate(&b, CUDA_R_16BF, x.cols, x.rows, x.stride));
  DUO_BLAS_CHECK(cublasLtMatrixLayoutCreate(&d, wide ? CUDA_R_32F : CUDA_R_16BF, outputs, x.rows, out.stride));

  // Views of columns, odd sizes and arena pieces: 16 bytes where the layout gives them, one element otherwise.
  auto alignment = [](const void* p, int64_t stride_bytes, uint32_t element) -> uint32_t {
    return reinterpret_cast<uintptr_t>(p) % 16 == 0 && stride_bytes % 16 == 0 ? 16 : element;
  };
  const uint32_t align_a = alignment(weight, x.cols * 2, 2), align_b = alignment(x.data, x.stride * 2, 2);
  const uint32_t align_d = alignment(out.data, out.stride * (wide ? 4 : 2), wide ? 4 : 2);
  const GemmKey key = {x.rows, outputs, x.cols, x.stride, out.stride, wide, (align_a << 16) + (align_b << 8) + align_d};
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

}  // namespace

size_t LinearScratchBytes(const Device& device, int64_t rows, const Weight& weight) {
  // A plan for `rows` must also serve fewer of them.
  size_t bytes = 0;
  if (SmallLinearFits(weight)) {
    bytes = SmallLinearScratchBytes(device, std::min<int64_t>(rows, kSmallRows), weight);
  }
  if (weight.dtype != DType::kBF16 && !UsesSmall(rows, weight)) {
    bytes = std::max(bytes, Arena::Rounded(SliceRows(weight) * weight.cols * sizeof(bf16)));
  }
  return bytes;
}

void Linear(Device& device, View out, View x, const Weight& weight, Arena& scratch) {
  if (UsesSmall(x.rows, weight)) {
    for (int64_t row = 0; row < x.rows; row += kSmallRows) {
      const int64_t count = std::min<int64_t>(kSmallRows, x.rows - row);
      SmallLinear(device, out.Rows(row, count), x.Rows(row, count), weight, scratch);
    }
    return;
  }
  const size_t mark = scratch.used();
  if (weight.dtype == DType::kBF16) {
    Gemm(device, out, x, static_cast<const bf16*>(weight.data), weight.rows);
  } else {
    const int64_t slice = SliceRows(weight);
    auto* values = static_cast<bf16*>(scratch.Take(slice * weight.cols * sizeof(bf16)));
    for (int64_t first = 0; first < weight.rows; first += slice) {
      const int64_t count = std::min(slice, weight.rows - first);
      Dequantize(device, values, weight, first, count);
      Gemm(device, out.Cols(first, count), x, values, count);
    }
  }
  if (weight.bias != nullptr) AddBias(device, out, weight.bias);
  scratch.Rewind(mark);
}

}  // namespace duo::cuda
