#include "runtime/weights/code_format.h"

#include <algorithm>

#include "kernels/ops.h"

namespace duo {

CodeFormat Join(const CodeFormat& a, const CodeFormat& b) {
  if (a == b) return a;
  if (a.group == 0 || b.group == 0) {
    // bf16 and f16 hold what the other does not.
    return {DType::kF32, 0, 0};
  }
  CodeFormat both;
  both.type = a.type == DType::kI4 && b.type == DType::kI4 ? DType::kI4 : DType::kI8;
  both.group = std::min(a.group, b.group);
  // A format of one level has a pair of its own for each of its groups.
  if (a.block > 0 || b.block > 0)
    both.block = std::min(a.block > 0 ? a.block : a.group, b.block > 0 ? b.block : b.group);
  return both;
}

std::optional<CodeFormat> FitTo(CodeFormat format, int64_t unit) {
  if (format.group == 0) return format;
  const int least = format.type == DType::kI4 ? 32 : 16;
  while (format.group > least && unit % format.group != 0) format.group /= 2;
  if (unit % format.group != 0) return std::nullopt;
  while (format.block > format.group && unit % format.block != 0) format.block /= 2;
  return format;
}

}  // namespace duo
