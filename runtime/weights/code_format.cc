#include "runtime/weights/code_format.h"

#include <algorithm>

namespace duo {

namespace {

constexpr CodeFormat kWideE2M1 = {DType::kBF16, 0, 0};

int PowerOfTwoIn(int count) { return std::min(count & -count, 128); }

}  // namespace

std::optional<CodeFormat> ScaleBlockFormat(int block_rows, int block_cols) {
  const CodeFormat format = {DType::kF8E4M3, PowerOfTwoIn(block_cols), PowerOfTwoIn(block_rows)};
  return format.group >= 16 ? std::optional(format) : std::nullopt;
}

CodeFormat Join(const CodeFormat& a, const CodeFormat& b) {
  if (a == b) return a;
  if (a.table == CodeTable::kE2M1) return Join(kWideE2M1, b);
  if (b.table == CodeTable::kE2M1) return Join(a, kWideE2M1);
  if (a.scale_blocks() && b.scale_blocks()) return {a.type, std::min(a.group, b.group), std::min(a.block, b.block)};
  if (a.group == 0 || b.group == 0 || a.scale_blocks() || b.scale_blocks()) {
    // bf16 and f16 hold what the other does not.
    return {DType::kF32, 0, 0};
  }
  CodeFormat both;
  both.type = a.type == DType::kI4 && b.type == DType::kI4 && a.table == b.table ? DType::kI4 : DType::kI8;
  if (both.type == DType::kI4) both.table = a.table;
  both.group = std::min(a.group, b.group);
  // A format of one level has a pair of its own for each of its groups.
  if (a.block > 0 || b.block > 0)
    both.block = std::min(a.block > 0 ? a.block : a.group, b.block > 0 ? b.block : b.group);
  return both;
}

std::optional<CodeFormat> FitTo(CodeFormat format, int64_t unit) {
  if (format.group == 0) return format;
  if (format.table != CodeTable::kNone && unit % 32 != 0) {
    if (format.table == CodeTable::kE2M1) return kWideE2M1;
    format.type = DType::kI8;
    format.table = CodeTable::kNone;
  }
  if (format.scale_blocks()) {
    while (format.group > 16 && unit % format.group != 0) format.group /= 2;
    return unit % format.group == 0 ? std::optional(format) : std::nullopt;
  }
  const int least = format.type == DType::kI4 ? 32 : 16;
  while (format.group > least && unit % format.group != 0) format.group /= 2;
  if (unit % format.group != 0) return std::nullopt;
  while (format.block > format.group && unit % format.block != 0) format.block /= 2;
  return format;
}

}  // namespace duo
