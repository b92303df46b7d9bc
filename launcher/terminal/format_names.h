// The words by which a command line names formats of weights and of the KV cache.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/kv_codec.h"

namespace duo {

// "auto" first. Weights have int8 in groups besides, "int8:32" and the like, and "fp8:128x128", fp8 in blocks.
std::vector<std::string> KvFormatNames();
std::vector<std::string> WeightFormatNames();
std::vector<std::string> WeightTypeNames();  // those without groups: embedding and head have no others

// Nothing for "auto".
std::optional<KvFormat> KvFormatNamed(std::string_view name);

// Nothing for "auto"; int8 for "int8:32", fp8 for "fp8:128x128".
std::optional<DType> WeightTypeNamed(std::string_view name);

// Columns that share a scale: 32 for "int8:32", 128 for "fp8:128x128"; 0 for whatever has no such number.
int Int8GroupNamed(std::string_view name);

}  // namespace duo
