// The inner loops for the baseline of any processor, 128 bits.
#define DUO_LANES 4
#include "kernels/cpu/simd/codecs.h"
#include "kernels/cpu/simd/few_rows.h"
#include "kernels/cpu/simd/gemv.h"
#include "kernels/cpu/simd/tiles.h"

namespace duo::cpu {

extern const SimdKernels kGenericKernels = {"generic", Decode,          Encode,    Extremes,          GemvPrepare,
                                            Gemv,      Multiply,        Transpose, DotCodes,          AddCodes,
                                            Softmax,   SoftmaxGradient, SwiGluRow, SwiGluGradientRow, MultiplyAddRounds,
                                            Read};

}  // namespace duo::cpu
