// Launches that may begin before the work ahead of them on the stream has ended (programmatic dependent launch, sm_90).
// The kernel calls WaitForDependency (primitives.cuh) before it reads what earlier kernels wrote or writes anything;
// what it does before, such as fetching weights, overlaps with their end. Works in graph captures.
#pragma once

#include "kernels/base/cuda_check.h"
#include "kernels/cuda/state.h"

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
  config.stream = Stream(device);
  config.attrs = &overlap;
  config.numAttrs = device.info().capability >= 90 ? 1 : 0;
  DUO_CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

}  // namespace duo::cuda
