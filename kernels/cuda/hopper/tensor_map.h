// Maps for the tensor copy engine of Hopper. The driver's function is found at run time, so nothing links against the
// driver.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/base/dtype.h"

namespace duo::cuda {

// Memory of `rows` rows, `stride` bytes apart, of `blocks` x 64 bf16, seen as boxes of 64 columns x box_rows rows x
// box_blocks blocks; in shared memory a block after the other, rows of 128 bytes, swizzled by 128 bytes. Rows past the
// end read as zeros. `at` and `stride` are multiples of 16 bytes.
CUtensorMap BoxMap(const bf16* at, int64_t rows, int64_t stride, int blocks, int box_rows, int box_blocks);
// A matrix of bytes, its rows one after the other, seen as boxes of 64 columns x box_rows rows (256 at most); in shared
// memory a row after the other. Rows past the end read as zeros. `at` and `columns` are multiples of 16.
CUtensorMap ByteBoxMap(const void* at, int64_t rows, int64_t columns, int box_rows);

}  // namespace duo::cuda
