// Searching and splitting strings as Python's str does. Bounds count characters. Pure, but for the run's limits.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "runtime/text/jinja/run.h"

namespace duo::jinja {

// Splits at most `most` times (never if 0, always if negative), from the right if asked. separator: null for white
// space.
bool Split(Run& run, const Text& text, const std::string* separator, int64_t most, bool from_right,
           std::vector<Text>* parts);

// The text with at most `most` occurrences replaced; all of them if it is negative.
bool ReplaceAll(Run& run, const Text& text, const std::string& old, const Text& with, int64_t most, Text* out);

// The bytes [begin, end) that the character bounds start and stop name; false if start lies behind the end.
bool CutByBounds(std::string_view text, int64_t start, int64_t stop, size_t* begin, size_t* end);

}  // namespace duo::jinja
