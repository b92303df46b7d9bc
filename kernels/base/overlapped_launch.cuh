// Launches that may begin before the work ahead of them on the stream has ended (programmatic dependent launch, sm_90).
// A kernel so launched calls WaitForDependency before it reads what earlier kernels wrote or writes anything; its work
// before that, such as fetching weights, overlaps with the end of the earlier kernels. Graph captures may hold such
// launches. For .cu files of kernels/ and parallel/.
#pragma once

#include "kernels/base/cuda_check.h"
#include "kernels/base/device.h"

namespace duo::cuda {

// In clusters of `cluster` blocks along x, which share their memory (sm_90).
template <typename... Parameters, typename... Arguments>
void LaunchClusters(const Device& device, void (*kernel)(Parameters...), dim3 grid, unsigned cluster, dim3 block,
                    size_t shared, Arguments... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {cluster, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = static_cast<cudaStream_t>(device.stream());
  config.attrs = attributes;
  config.numAttrs = device.info().capability < 90 ? 0 : cluster > 1 ? 2 : 1;
  DUO_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}
template <typename... Parameters, typename... Arguments>
void LaunchOverlapped(const Device& device, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared,
                      Arguments... arguments) {
  LaunchClusters(device, kernel, grid, 1, block, shared, arguments...);
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
