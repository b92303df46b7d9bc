#include "runtime/model/thousandths.h"

#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace duo {

std::string ThousandthsName(int32_t value) { return absl::StrCat(value / 1000.0); }

std::optional<int32_t> ThousandthsNamed(const std::string& text) {
  double value = 0;
  if (!absl::SimpleAtod(text, &value) || !(value > 0) || !(value < 1)) return std::nullopt;
  const double thousandths = std::round(value * 1000);
  if (std::abs(value * 1000 - thousandths) > 1e-6 || thousandths < 1) return std::nullopt;
  return static_cast<int32_t>(thousandths);
}

}  // namespace duo
