#include "runtime/weights/quantize.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/base/check.h"

namespace duo {
namespace {

void QuantizeGroup(const float* x, int count, uint8_t* codes, uint16_t* params) {
  float lowest = x[0], highest = x[0];
  for (int i = 1; i < count; ++i) {
    lowest = std::min(lowest, x[i]);
    highest = std::max(highest, x[i]);
  }
  const f16 min = ToF16(lowest);
  const f16 scale = ToF16((highest - ToFloat(min)) / 15.0f);
  params[0] = scale.bits;
  params[1] = min.bits;
  const float inverse = ToFloat(scale) > 0.0f ? 1.0f / ToFloat(scale) : 0.0f;
  for (int i = 0; i < count; i += 2) {
    const auto code = [&](float value) {
      return static_cast<uint8_t>(std::clamp(std::rint((value - ToFloat(min)) * inverse), 0.0f, 15.0f));
    };
    codes[i / 2] = static_cast<uint8_t>(code(x[i]) | code(x[i + 1]) << 4);
  }
}

void QuantizeInt8Group(const float* x, int count, uint8_t* codes, uint16_t* params) {
  const f16 scale = ToF16(AbsMax(x, count) / 127.0f);
  params[0] = scale.bits;
  params[1] = 0;
  const float inverse = ToFloat(scale) > 0.0f ? 1.0f / ToFloat(scale) : 0.0f;
  for (int i = 0; i < count; ++i)
    codes[i] = static_cast<uint8_t>(static_cast<int8_t>(std::clamp(std::rint(x[i] * inverse), -127.0f, 127.0f)));
}

}  // namespace

int Int4Group(int64_t unit, int most) {
  for (int group : {128, 64, 32}) {
    if (group <= most && unit % group == 0) return group;
  }
  return 0;
}

float AbsMax(const float* row, int64_t cols) {
  float top = 0.0f;
  for (int64_t c = 0; c < cols; ++c) top = std::max(top, std::fabs(row[c]));
  return top;
}

void QuantizeRow(DType dtype, const float* row, int64_t cols, float absmax, int group, const RowCodes& out) {
  uint8_t* const codes = out.codes;
  float* const scale = out.scale;
  uint16_t* const groups = out.groups;
  switch (dtype) {
    case DType::kF32:
      std::memcpy(codes, row, 4 * cols);
      return;
    case DType::kF16:
      for (int64_t c = 0; c < cols; ++c) reinterpret_cast<f16*>(codes)[c] = ToF16(row[c]);
      return;
    case DType::kBF16:
      for (int64_t c = 0; c < cols; ++c) reinterpret_cast<bf16*>(codes)[c] = ToBf16(row[c]);
      return;
    case DType::kF8E4M3: {
      *scale = absmax / 448.0f;
      const float inverse = *scale > 0.0f ? 1.0f / *scale : 0.0f;
      for (int64_t c = 0; c < cols; ++c) codes[c] = FloatToF8(row[c] * inverse);
      return;
    }
    case DType::kI8: {
      for (int64_t g = 0; group > 0 && g < cols / group; ++g)
        QuantizeInt8Group(row + g * group, group, codes + g * group, groups + 2 * g);
      if (group > 0) return;
      *scale = absmax / 127.0f;
      const float inverse = *scale > 0.0f ? 1.0f / *scale : 0.0f;
      for (int64_t c = 0; c < cols; ++c) {
        codes[c] = static_cast<uint8_t>(static_cast<int8_t>(std::clamp(std::rint(row[c] * inverse), -127.0f, 127.0f)));
      }
      return;
    }
    case DType::kI4:
      DUO_CHECK(group > 0 && cols % group == 0);
      for (int64_t g = 0; g < cols / group; ++g)
        QuantizeGroup(row + g * group, group, codes + g * group / 2, groups + 2 * g);
      return;
    case DType::kI32:
      break;
  }
  DUO_CHECK_MSG(false, Name(dtype));
}

}  // namespace duo
