#include "kernels/cuda/state.h"

#include "kernels/base/cuda_check.h"
#include "kernels/cuda/blas_check.h"

namespace duo::cuda {
namespace {

void Destroy(Device::CudaState* state) {
  if (state->cudnn != nullptr) DestroyCudnnAttention(state->cudnn);
  cublasLtDestroy(state->blas);
  cudaFree(state->workspace);
  cudaFree(state->counters);
  cudaFree(state->partials);
  delete state;
}

}  // namespace

Device::CudaState& State(Device& device) {
  if (device.cuda() == nullptr) {
    DUO_CHECK(device.is_cuda());
    auto* state = new Device::CudaState();
    DUO_BLAS_CHECK(cublasLtCreate(&state->blas));
    DUO_CUDA_CHECK(cudaMalloc(&state->workspace, Device::CudaState::kWorkspaceBytes));
    DUO_CUDA_CHECK(cudaMalloc(&state->counters, Device::CudaState::kCounters * sizeof(uint32_t)));
    DUO_CUDA_CHECK(cudaMalloc(&state->partials, Device::CudaState::kPartialBytes));
    DUO_CUDA_CHECK(
        cudaMemsetAsync(state->counters, 0, Device::CudaState::kCounters * sizeof(uint32_t), Stream(device)));
    device.set_cuda(state, Destroy);
  }
  return *device.cuda();
}

}  // namespace duo::cuda
