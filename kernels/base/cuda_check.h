// CUDA calls either succeed or end the program: their errors are sticky, nothing can be mended. For .cc and .cu files
// of kernels/, and of parallel/ where it drives GPUs (comm_nccl, peer_memory).
#pragma once

#include <cuda_runtime.h>

#include "kernels/base/check.h"

#define DUO_CUDA_CHECK(call)                                                                           \
  do {                                                                                                 \
    const cudaError_t duo_error = (call);                                                              \
    if (duo_error != cudaSuccess)                                                                      \
      ::duo::CheckFailed(__FILE__, __LINE__, std::string(#call ": ") + cudaGetErrorString(duo_error)); \
  } while (0)
