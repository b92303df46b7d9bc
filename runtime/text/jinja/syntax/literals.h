// Literals within a template's tags: strings with their escapes, numbers. Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace duo::jinja {

// What stands between a string's quotes, as Python reads it. False: `why` says what is wrong.
bool StringLiteral(std::string_view inside, std::string* out, std::string* why);

// The end of the float that begins at `at`; 0 if none does.
size_t FloatEnd(std::string_view source, size_t at);

// The end of the integer that begins at `at`; 0 if it is larger than 64 bits.
size_t IntegerLiteral(std::string_view source, size_t at, int64_t* value);

}  // namespace duo::jinja
