// The inner loops for AVX-512 F, BW, DQ and VL.
#define DUO_LANES 16
#include "kernels/cpu/simd/codecs.h"
#include "kernels/cpu/simd/few_rows.h"
#include "kernels/cpu/simd/gemv.h"
#include "kernels/cpu/simd/tiles.h"

namespace duo::cpu {

extern const SimdKernels kAvx512Kernels = {"avx512", Decode,          Encode,    Extremes,          GemvPrepare,
                                           Gemv,     Multiply,        Transpose, DotCodes,          AddCodes,
                                           Softmax,  SoftmaxGradient, SwiGluRow, SwiGluGradientRow, MultiplyAddRounds,
                                           Read};

}  // namespace duo::cpu
