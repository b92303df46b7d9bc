// Draws a pattern as a heat map: one row a layer, one column a KV head, the darker the higher its gate. A pure function
// of its value; thread-safe.
#pragma once

#include <string>

#include "attn_patterns/pattern.h"

namespace duo {

// title: plain text, shown above the map.
std::string PatternSvg(const Pattern& pattern, const std::string& title);

}  // namespace duo
