// Shares between 0 and 1 as users write them, with at most three decimal places. Pure functions, any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace duo {

// 250 is "0.25".
std::string ThousandthsName(int32_t value);
// The reverse; nothing: it is no number above 0 and below 1, or has more places.
std::optional<int32_t> ThousandthsNamed(const std::string& text);

}  // namespace duo
