#include "runtime/weights/matrix_bits.h"

#include <algorithm>
#include <cmath>

#include "runtime/weights/held_weights.h"

namespace duo {

int MatrixBits(const ModelConfig& config, const WeightFormats& formats) {
  double bits = 0, elements = 0;
  for (const TokenMatrix& matrix : TokenMatrices(config)) {
    const auto kept = formats.kept.find({matrix.layer, matrix.role});
    const DType type = kept == formats.kept.end() ? formats.matrices : kept->second.type;
    bits += static_cast<double>(matrix.elements) * std::min(16, Bits(type));
    elements += static_cast<double>(matrix.elements);
  }
  return static_cast<int>(std::lround(bits / elements));
}

}  // namespace duo
