#include "runtime/model/prefill_sparsity.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/base/splitmix64.h"
#include "runtime/model/thousandths.h"

namespace duo {
namespace {

constexpr int64_t kLeastWindow = 2048, kMostWindow = 32768;

}  // namespace

std::string Name(const PrefillSparsity& s) {
  switch (s.mode) {
    case PrefillSparsity::Mode::kOff:
      return "off";
    case PrefillSparsity::Mode::kFixed:
      return ThousandthsName(s.density);
    case PrefillSparsity::Mode::kAuto:
      return absl::StrCat("auto:", ThousandthsName(s.target));
  }
  return "?";
}

std::optional<PrefillSparsity> PrefillSparsityNamed(const std::string& name) {
  PrefillSparsity s;
  if (name == "off") return s;
  if (name == "auto" || name.starts_with("auto:")) {
    s.mode = PrefillSparsity::Mode::kAuto;
    if (name == "auto") return s;
    const std::optional<int32_t> target = ThousandthsNamed(name.substr(5));
    if (!target.has_value()) return std::nullopt;
    s.target = *target;
    return s;
  }
  const std::optional<int32_t> density = ThousandthsNamed(name);
  if (!density.has_value()) return std::nullopt;
  s.mode = PrefillSparsity::Mode::kFixed;
  s.density = *density;
  return s;
}

AuditRungs RungsOf(const PrefillSparsity& s) {
  if (s.mode == PrefillSparsity::Mode::kFixed) return {1, {s.density}};
  return {6, {40, 80, 120, 180, 270, 400}};
}

SparseWindow WindowAt(int64_t position) {
  int64_t size = kLeastWindow;
  while (size < kMostWindow && size * 16 <= position) size *= 2;
  SparseWindow window;
  window.begin = position / size * size;
  window.end = window.begin + size;
  const uint64_t random = SplitMix64(static_cast<uint64_t>(window.begin));
  window.audited = window.begin + static_cast<int64_t>(random % (size / kBlockTokens)) * kBlockTokens;
  return window;
}

}  // namespace duo
