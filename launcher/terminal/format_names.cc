#include "launcher/terminal/format_names.h"

#include "absl/strings/numbers.h"
#include "runtime/weights/scale_grid.h"

namespace duo {
namespace {

constexpr DType kWeightTypes[] = {DType::kF32, DType::kBF16, DType::kF8E4M3, DType::kI8, DType::kI4};
constexpr int kInt8Groups[] = {16, 32, 64, 128};
constexpr std::string_view kInt8GroupPrefix = "int8:";
constexpr std::string_view kFp8Blocks = "fp8:128x128";

}  // namespace

std::vector<std::string> KvFormatNames() {
  std::vector<std::string> names = {"auto"};
  for (const KvFormat format : kKvFormats) names.emplace_back(Name(format));
  return names;
}

std::vector<std::string> WeightTypeNames() {
  std::vector<std::string> names = {"auto"};
  for (const DType type : kWeightTypes) names.emplace_back(Name(type));
  return names;
}

std::vector<std::string> WeightFormatNames() {
  std::vector<std::string> names = WeightTypeNames();
  names.emplace_back(kFp8Blocks);
  for (const int group : kInt8Groups) names.push_back(std::string(kInt8GroupPrefix) + std::to_string(group));
  return names;
}

std::optional<KvFormat> KvFormatNamed(std::string_view name) {
  for (const KvFormat format : kKvFormats) {
    if (name == Name(format)) return format;
  }
  return std::nullopt;
}

std::optional<DType> WeightTypeNamed(std::string_view name) {
  if (name == kFp8Blocks) return DType::kF8E4M3;
  if (Int8GroupNamed(name) > 0) return DType::kI8;
  for (const DType type : kWeightTypes) {
    if (name == Name(type)) return type;
  }
  return std::nullopt;
}

int Int8GroupNamed(std::string_view name) {
  if (name == kFp8Blocks) return kScaleBlock;
  int group = 0;
  if (!name.starts_with(kInt8GroupPrefix) ||
      !absl::SimpleAtoi(std::string(name.substr(kInt8GroupPrefix.size())), &group))
    return 0;
  return group;
}

}  // namespace duo
