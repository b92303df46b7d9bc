// Launches that may begin before the work ahead of them on the stream has ended (programmatic dependent launch, sm_90).
// A kernel so launched calls WaitForDependency before it reads what earlier kernels wrote or writes anything; its work
// before that, such as fetching weights, overlaps with the end of the earlier kernels. Graph captures may hold such
// launches. For .cu files of kernels/ and parallel/.
#pragma once

#include "kernels/base/cuda_check.h"
#include "kernels/base/device.h"

namespace duo::cuda {

template <typename... Parameters, typename... Arguments>
void LaunchOverlapped(const Device& device, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
                      Arguments... arguments) {
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = static_cast<cudaStream_t>(device.stream());
  config.attrs = &overlap;
  config.numAttrs = device.info().capability >= 90 ? 1 : 0;
  DUO_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

// Lets the next kernel start early; the next kernel waits for all of this one.
__device__ __forceinline__ void LetDependentsStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
__device__ __forceinline__ void WaitForDependency() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// For a kernel that does nothing before its wait: its start alone overlaps with the end of the kernel before.
__device__ __forceinline__ void StartOverlapped() {
  LetDependentsStart();
  WaitForDependency();
}

}  // namespace duo::cuda
