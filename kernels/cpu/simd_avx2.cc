// The inner loops for AVX2, FMA and F16C.
#define DUO_LANES 8
#include "kernels/cpu/simd/codecs.h"
#include "kernels/cpu/simd/few_rows.h"
#include "kernels/cpu/simd/gemv.h"
#include "kernels/cpu/simd/tiles.h"

namespace duo::cpu {

extern const SimdKernels kAvx2Kernels = {"avx2",  Decode,          Encode,    Extremes,          GemvPrepare,
                                         Gemv,    Multiply,        Transpose, DotCodes,          AddCodes,
                                         Softmax, SoftmaxGradient, SwiGluRow, SwiGluGradientRow, MultiplyAddRounds,
                                         Read};

}  // namespace duo::cpu
