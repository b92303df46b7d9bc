// Hash maps by text that can be asked with a std::string_view.
// Why: the distributions build abseil with a string_view of its own, so its default hash does not take the standard
// one.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_map.h"

namespace duo {

struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

template <typename Value>
using TextMap = absl::flat_hash_map<std::string, Value, TextHash, std::equal_to<>>;

// Keys are views: the texts must outlive the map.
template <typename Value>
using TextViewMap = absl::flat_hash_map<std::string_view, Value, TextHash, std::equal_to<>>;

}  // namespace duo
