// dx = dout W by cuBLASLt. Weights that are not bf16 are turned to bf16 whole: a sum over slices of W's rows would
// round dx once per slice.
#include "kernels/backend.h"
#include "kernels/cuda/linear/dequantize.h"
#include "kernels/cuda/linear/gemm.h"

namespace duo::cuda {

size_t LinearBackwardScratchBytes(const Device&, int64_t, const Weight& weight) {
  return weight.dtype == DType::kBF16 ? 0 : Arena::Rounded(weight.rows * weight.cols * sizeof(bf16));
}

void LinearBackward(Device& device, View dx, View dout, const Weight& weight, Arena& scratch) {
  const size_t mark = scratch.used();
  const bf16* values = static_cast<const bf16*>(weight.data);
  if (weight.dtype != DType::kBF16) {
    bf16* decoded = static_cast<bf16*>(scratch.Take(weight.rows * weight.cols * sizeof(bf16)));
    Dequantize(device, decoded, weight, 0, weight.rows);
    values = decoded;
  }
  Gemm(device, dx, dout, values, WeightIs::kAsStored);
  scratch.Rewind(mark);
}

}  // namespace duo::cuda
