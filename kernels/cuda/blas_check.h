// cuBLASLt calls either succeed or end the program: shapes and types were checked before.
#pragma once

#include <cublasLt.h>

#include "kernels/base/check.h"

#define DUO_BLAS_CHECK(call)                                                                               \
  do {                                                                                                     \
    const cublasStatus_t duo_status = (call);                                                              \
    if (duo_status != CUBLAS_STATUS_SUCCESS)                                                               \
      ::duo::CheckFailed(__FILE__, __LINE__, std::string(#call ": ") + cublasLtGetStatusName(duo_status)); \
  } while (0)
